// moe_gemv: every token times the matrices of its own experts, which are stacked: the rows of expert e are
// [e expert_rows, (e + 1) expert_rows) of the matrix. The bodies are gemv's, with one token each.
#include "plain.cuh"
#include "tensor.cuh"

// Declared a second time in src/plan.rs.
struct MoeGemvArgs {
    GemvArgs gemv;      // y: product p's value of its expert's row r at p * y_stride + r
    const u32* expert;  // of each product; product p is token (first + p) / top_k's
    u32 expert_rows;
    u32 top_k;
    u32 first;
};

// This block's rows, ROWS of them, of the one expert, with the one token.
template <u32 ROWS>
__device__ __forceinline__ Job one_product(const MoeGemvArgs& args) {
    const u32 blocks = (args.expert_rows + ROWS - 1) / ROWS;  // of a product
    const u32 product = blockIdx.x / blocks;
    const u32 origin = args.expert[product] * args.expert_rows;
    const u64 token = (args.first + product) / args.top_k;
    return {origin + blockIdx.x % blocks * ROWS,
            origin + args.expert_rows,
            origin,
            static_cast<const u16*>(args.gemv.x) + args.gemv.x_stride * token,
            args.gemv.y + static_cast<u64>(args.gemv.y_stride) * product,
            1};
}

// C: the code; X: the activation type.
template <class C, class X>
__device__ __forceinline__ void moe_gemv(const MoeGemvArgs& args) {
    multiply_rows<C, X, 8>(args.gemv, one_product<BLOCK_ROWS>(args));
}

template <class X>
__device__ __forceinline__ void moe_gemv_general(const MoeGemvArgs& args) {
    multiply_row<General, X, 1>(args.gemv, one_product<WARPS>(args));
}

#define CCQ_MOE_GEMV(SUFFIX, CODE, TYPE, X) \
    CCQ_KERNEL(moe_gemv_##SUFFIX##_##TYPE, MoeGemvArgs, 4, moe_gemv<CODE, X>)

CCQ_FOR_NAMED(CCQ_MOE_GEMV, f16, F16)
CCQ_FOR_NAMED(CCQ_MOE_GEMV, bf16, Bf16)
CCQ_KERNEL(moe_gemv_general_f16, MoeGemvArgs, 6, moe_gemv_general<F16>)
CCQ_KERNEL(moe_gemv_general_bf16, MoeGemvArgs, 6, moe_gemv_general<Bf16>)
