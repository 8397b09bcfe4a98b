// A cuBLAS without a GPU, for tests: the four functions that src/cublas.rs calls, on top of sim/driver.cpp. Products
// are computed as the documentation of cublasGemmEx says, column by column, for bf16 with f32 sums.
#include <cstdint>
#include <cstring>
#include <functional>

#include <dlfcn.h>

struct Stream;
struct Handle {
    Stream* stream;
};

static float widen(std::uint16_t value) {
    const std::uint32_t bits = static_cast<std::uint32_t>(value) << 16;
    float wide;
    std::memcpy(&wide, &bits, 4);
    return wide;
}

static std::uint16_t narrow(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);  // to nearest even
}

extern "C" {

int cublasCreate_v2(Handle** handle) {
    *handle = new Handle{nullptr};
    return 0;
}

int cublasDestroy_v2(Handle* handle) {
    delete handle;
    return 0;
}

int cublasSetStream_v2(Handle* handle, Stream* stream) {
    handle->stream = stream;
    return 0;
}

int cublasGemmEx(Handle* handle, int op_a, int op_b, int m, int n, int k, const void* alpha, const void* a_matrix,
                 int a_type, int lda, const void* b_matrix, int b_type, int ldb, const void* beta, void* c_matrix,
                 int c_type, int ldc, int compute, int) {
    constexpr int bf16 = 14, compute_f32 = 68, invalid_value = 7, not_supported = 15;
    if (a_type != bf16 || b_type != bf16 || c_type != bf16 || compute != compute_f32) return not_supported;
    if (lda < (op_a == 0 ? m : k) || ldb < (op_b == 0 ? k : n) || ldc < m) return invalid_value;
    const float by = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
    if (keep != 0.0f) return not_supported;
    const auto* a = static_cast<const std::uint16_t*>(a_matrix);
    const auto* b = static_cast<const std::uint16_t*>(b_matrix);
    auto* c = static_cast<std::uint16_t*>(c_matrix);
    std::function<void()> work = [=] {
        for (int column = 0; column < n; ++column) {
            for (int row = 0; row < m; ++row) {
                float sum = 0.0f;
                for (int i = 0; i < k; ++i) {
                    const auto at_a = op_a == 0 ? row + std::int64_t{i} * lda : i + std::int64_t{row} * lda;
                    const auto at_b = op_b == 0 ? i + std::int64_t{column} * ldb : column + std::int64_t{i} * ldb;
                    sum += widen(a[at_a]) * widen(b[at_b]);
                }
                c[row + std::int64_t{column} * ldc] = narrow(by * sum);
            }
        }
    };
    static void* driver = dlopen("libcuda.so", RTLD_NOW | RTLD_NOLOAD);
    using Queue = void (*)(Stream*, std::function<void()>*);
    reinterpret_cast<Queue>(dlsym(driver, "ccq_sim_queue"))(handle->stream, &work);
    return 0;
}

}  // extern "C"
