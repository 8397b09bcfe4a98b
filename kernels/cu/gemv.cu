// gemv: y = x W^T for 1 to 16 tokens, f16 or bf16 activations, f32 accumulation and output.
//
// Named codes run on the tensor cores (tensor.cuh), all others on the ordinary ones (plain.cuh).
#include "plain.cuh"
#include "tensor.cuh"

// This block's rows, ROWS of them, with all tokens.
template <u32 ROWS>
__device__ __forceinline__ Job all_tokens(const GemvArgs& args) {
    return {blockIdx.x * ROWS, args.matrix.rows, 0, static_cast<const u16*>(args.x), args.y, args.tokens};
}

// C: the code; X: the activation type; TOKENS: the most tokens this kernel takes.
template <class C, class X, u32 TOKENS>
__device__ __forceinline__ void gemv(const GemvArgs& args) {
    multiply_rows<C, X, TOKENS>(args, all_tokens<BLOCK_ROWS>(args));
}

template <class X, u32 TOKENS>
__device__ __forceinline__ void gemv_general(const GemvArgs& args) {
    multiply_row<General, X, TOKENS>(args, all_tokens<WARPS>(args));
}

#define CCQ_GEMV(SUFFIX, CODE, TYPE, X, TOKENS) \
    CCQ_KERNEL(gemv_##SUFFIX##_##TYPE##_##TOKENS, GemvArgs, 4, gemv<CODE, X, TOKENS>)

CCQ_FOR_NAMED(CCQ_GEMV, f16, F16, 8)
CCQ_FOR_NAMED(CCQ_GEMV, f16, F16, 16)
CCQ_FOR_NAMED(CCQ_GEMV, bf16, Bf16, 8)
CCQ_FOR_NAMED(CCQ_GEMV, bf16, Bf16, 16)
CCQ_KERNEL(gemv_general_f16_1, GemvArgs, 6, gemv_general<F16, 1>)
CCQ_KERNEL(gemv_general_f16_16, GemvArgs, 6, gemv_general<F16, 16>)
CCQ_KERNEL(gemv_general_bf16_1, GemvArgs, 6, gemv_general<Bf16, 1>)
CCQ_KERNEL(gemv_general_bf16_16, GemvArgs, 6, gemv_general<Bf16, 16>)
