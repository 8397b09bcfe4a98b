// A CUDA driver without a GPU, for tests of the library's side: the functions that src/api.rs lists, with the
// simulated kernels behind them. Compiled to a libcuda.so that a test puts in front of the system's.
//
// Streams are lazy: copies and kernels run when the stream is synchronised and not before, so that memory which
// is changed, read or freed too early shows. Each takes a millisecond. CCQ_SIM_DRIVER chooses a fault: no-device, stub, old-driver,
// old-device, no-memory, no-pinned-memory, no-kernel, no-launch, unknown-code. CCQ_SIM_MEMORY is the bytes that the
// device has. Built with CCQ_NO_KERNELS, cuLaunchKernel is missing; with CCQ_NO_GRAPHS, what records work.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <dlfcn.h>

#ifndef CCQ_NO_KERNELS
#include "../cu/dequantize.cu"
#include "../cu/gemv.cu"
#include "../cu/moe_gemv.cu"
#include "../cu/squared_error.cu"
#endif

using Size = std::size_t;
using Address = unsigned long long;

enum Result {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    STUB_LIBRARY = 34,
    NO_DEVICE = 100,
    NOT_FOUND = 500,
    LAUNCH_FAILED = 719,
    NEWER_THAN_ANY_LIST = 987654,
};

static bool fault(const char* name) {
    const char* chosen = std::getenv("CCQ_SIM_DRIVER");
    return chosen != nullptr && std::strcmp(chosen, name) == 0;
}

// What is allocated: addresses and their lengths, so that a copy beyond its memory is refused.
static std::map<Address, Size> allocations;

static bool within(Address address, Size bytes) {
    auto after = allocations.upper_bound(address);
    if (after == allocations.begin()) return false;
    const auto& found = *--after;
    return address + bytes <= found.first + found.second;
}

static Result allocate(Address* address, Size bytes) {
    void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (memory == nullptr) return OUT_OF_MEMORY;
    std::memset(memory, 0xFF, bytes);
    *address = reinterpret_cast<Address>(memory);
    allocations[*address] = bytes;
    return SUCCESS;
}

static Result release(Address address) {
    if (allocations.erase(address) == 0) return INVALID_VALUE;
    std::free(reinterpret_cast<void*>(address));
    return SUCCESS;
}

// Bytes that the device has, and has given away.
static Size memory_bytes() {
    const char* bytes = std::getenv("CCQ_SIM_MEMORY");
    return bytes != nullptr ? std::strtoull(bytes, nullptr, 10) : Size{1} << 30;
}
static std::map<Address, Size> on_device;
static Size used_bytes = 0;

using Queue = std::vector<std::function<void()>>;

// Milliseconds that all streams together have worked.
static float now = 0.0f;

// When an event was reached; may be destroyed before it is.
using Event = std::shared_ptr<float>;

struct Stream {
    Queue queue;
    Queue* recording = nullptr;  // where work goes instead, while it is recorded
    void push(std::function<void()> work) {
        (recording != nullptr ? *recording : queue).push_back([work = std::move(work)] {
            work();
            now += 1.0f;
        });
    }
};

static Result copy(void* to, const void* from, Size bytes, Stream* stream) {
    if (!within(reinterpret_cast<Address>(to), bytes) || !within(reinterpret_cast<Address>(from), bytes)) {
        return INVALID_VALUE;
    }
    stream->push([=] { std::memcpy(to, from, bytes); });
    return SUCCESS;
}

// A kernel, and the bytes of its one parameter, after its PTX.
struct Function {
    void* kernel;
    Size parameter_bytes;
};

extern "C" {

Result cuInit(unsigned) { return fault("no-device") ? NO_DEVICE : fault("stub") ? STUB_LIBRARY : SUCCESS; }

Result cuDriverGetVersion(int* version) {
    *version = fault("old-driver") ? 10020 : 13000;
    return SUCCESS;
}

Result cuDeviceGetCount(int* count) {
    *count = 2;
    return SUCCESS;
}

Result cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return SUCCESS;
}

// Device 0 is too old, device 1 is not, unless the fault makes it so.
Result cuDeviceGetAttribute(int* value, int attribute, int device) {
    const bool old = device == 0 || fault("old-device");
    switch (attribute) {
    case 38: *value = 1 << 12; break;  // the last-level cache
    case 75: *value = old ? 7 : 9; break;
    case 76: *value = old ? 5 : 0; break;
    default: return INVALID_VALUE;
    }
    return SUCCESS;
}

Result cuDeviceGetName(char* name, int length, int device) {
    std::strncpy(name, device == 0 ? "old simulator" : "simulator", length);
    return SUCCESS;
}

Result cuDeviceTotalMem_v2(Size* bytes, int) {
    *bytes = memory_bytes();
    return SUCCESS;
}

Result cuDevicePrimaryCtxRetain(void** context, int) {
    *context = &allocations;
    return SUCCESS;
}

// The last thing a program does with a device: all of its memory has to be free by then.
Result cuDevicePrimaryCtxRelease_v2(int) {
    if (!allocations.empty()) std::abort();
    return SUCCESS;
}

Result cuCtxSetCurrent(void* context) { return context == &allocations ? SUCCESS : INVALID_VALUE; }

Result cuStreamCreate(Stream** stream, unsigned) {
    if (fault("unknown-code")) return NEWER_THAN_ANY_LIST;
    *stream = new Stream;
    return SUCCESS;
}

Result cuStreamSynchronize(Stream* stream) {
    if (stream->recording != nullptr) std::abort();
    for (const auto& work : stream->queue) work();
    stream->queue.clear();
    return SUCCESS;
}

Result cuStreamDestroy_v2(Stream* stream) {
    if (!stream->queue.empty()) std::abort();
    delete stream;
    return SUCCESS;
}

Result cuEventCreate(Event** event, unsigned) {
    *event = new Event(std::make_shared<float>(NAN));
    return SUCCESS;
}

Result cuEventRecord(const Event* event, Stream* stream) {
    stream->queue.push_back([reached = *event] { *reached = now; });
    return SUCCESS;
}

Result cuEventElapsedTime(float* milliseconds, const Event* begin, const Event* end) {
    *milliseconds = **end - **begin;
    return SUCCESS;
}

Result cuEventDestroy_v2(Event* event) {
    delete event;
    return SUCCESS;
}

Result cuMemAlloc_v2(Address* address, Size bytes) {
    if (fault("no-memory") || used_bytes + bytes > memory_bytes()) return OUT_OF_MEMORY;
    const Result result = allocate(address, bytes);
    if (result == SUCCESS) {
        on_device[*address] = bytes;
        used_bytes += bytes;
    }
    return result;
}

Result cuMemFree_v2(Address address) {
    used_bytes -= on_device[address];
    on_device.erase(address);
    return release(address);
}

Result cuMemHostAlloc(void** memory, Size bytes, unsigned) {
    Address address = 0;
    const Result result = fault("no-pinned-memory") ? OUT_OF_MEMORY : allocate(&address, bytes);
    *memory = reinterpret_cast<void*>(address);
    return result;
}

Result cuMemFreeHost(void* memory) { return release(reinterpret_cast<Address>(memory)); }

Result cuMemcpyHtoDAsync_v2(Address to, const void* from, Size bytes, Stream* stream) {
    return copy(reinterpret_cast<void*>(to), from, bytes, stream);
}

Result cuMemcpyDtoHAsync_v2(void* to, Address from, Size bytes, Stream* stream) {
    return copy(to, reinterpret_cast<const void*>(from), bytes, stream);
}

Result cuMemcpyDtoDAsync_v2(Address to, Address from, Size bytes, Stream* stream) {
    return copy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes, stream);
}

// A module is its PTX, whose text has to name the kernels that are asked for.
Result cuModuleLoadData(std::string** module, const char* image) {
    *module = new std::string(image);
    return SUCCESS;
}

Result cuModuleUnload(std::string* module) {
    delete module;
    return SUCCESS;
}

Result cuModuleGetFunction(Function** function, std::string* module, const char* name) {
    static std::map<std::string, Function> functions;
    *function = nullptr;
    Dl_info self;
    const std::string entry = ".entry " + std::string(name) + "(", parameter = "_param_0[";
    const auto at = module->find(entry);
    if (at == std::string::npos || fault("no-kernel")) return NOT_FOUND;
    if (dladdr(reinterpret_cast<void*>(&cuInit), &self) == 0) return NOT_FOUND;
    void* kernel = dlsym(dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD), name);
    if (kernel == nullptr) return NOT_FOUND;
    const Size bytes = std::stoul(module->substr(module->find(parameter, at) + parameter.size(), 10));
    *function = &(functions[name] = {kernel, bytes});
    return SUCCESS;
}

#ifndef CCQ_NO_KERNELS
Result cuLaunchKernel(Function* function, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned, unsigned,
                      unsigned shared_bytes, Stream* stream, void** params, void**) {
    if (shared_bytes > 48 << 10 || blocks == 0) return INVALID_VALUE;
    if (fault("no-launch")) return LAUNCH_FAILED;
    // Parameters are copied here, as the driver does.
    std::vector<char> args(static_cast<char*>(params[0]), static_cast<char*>(params[0]) + function->parameter_bytes);
    void* kernel = function->kernel;
    stream->push([=] {
        const sim::Launch launch = {blocks, threads, shared_bytes, 0};
        reinterpret_cast<void (*)(const void*, const sim::Launch*)>(kernel)(args.data(), &launch);
    });
    return SUCCESS;
}
#endif

#ifndef CCQ_NO_GRAPHS
// Work that is recorded, and recorded work: the same thing here.
Result cuStreamBeginCapture_v2(Stream* stream, int) {
    if (stream->recording != nullptr || !stream->queue.empty()) return INVALID_VALUE;
    stream->recording = new Queue;
    return SUCCESS;
}

Result cuStreamEndCapture(Stream* stream, Queue** graph) {
    *graph = stream->recording;
    stream->recording = nullptr;
    return *graph == nullptr ? INVALID_VALUE : SUCCESS;
}

Result cuGraphInstantiateWithFlags(Queue** instance, const Queue* graph, unsigned long long) {
    *instance = new Queue(*graph);
    return SUCCESS;
}

Result cuGraphDestroy(Queue* graph) {
    delete graph;
    return SUCCESS;
}

Result cuGraphLaunch(Queue* instance, Stream* stream) {
    stream->queue.insert(stream->queue.end(), instance->begin(), instance->end());
    return SUCCESS;
}

Result cuGraphExecDestroy(Queue* instance) {
    delete instance;
    return SUCCESS;
}
#endif

// What other simulated libraries queue work with.
void ccq_sim_queue(Stream* stream, std::function<void()>* work) { stream->push(*work); }

Result cuGetErrorName(int code, const char** name) {
    if (code == NEWER_THAN_ANY_LIST) return INVALID_VALUE;
    *name = code == NOT_FOUND ? "CUDA_ERROR_NOT_FOUND" : "CUDA_ERROR_SIMULATED";
    return SUCCESS;
}

}  // extern "C"
