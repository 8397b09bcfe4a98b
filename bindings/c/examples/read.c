// Lists a .ccq file, or a model in several by any of them, decodes the first row of every quantized tensor and
// multiplies it with ones: what an engine that embeds the reader does first.
//
//     cargo build --release -p ccq-c
//     cc -std=c11 -I bindings/c/include bindings/c/examples/read.c -L target/release -lccq_c -o read
//     LD_LIBRARY_PATH=target/release ./read model.ccq
#include <ccq.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static int fail(const char *what, ccq_error *error) {
    fprintf(stderr, "%s: %s\n", what, ccq_error_message(error));
    ccq_error_free(error);
    return EXIT_FAILURE;
}

// y = W x for a vector of ones; the first product, or NaN.
static float times_ones(const ccq_tensor *tensor, ccq_error **error) {
    size_t rows = ccq_tensor_rows(tensor), width = ccq_tensor_in_features(tensor);
    float *x = malloc(width * sizeof *x), *y = malloc(rows * sizeof *y);
    for (size_t i = 0; i < width; i++) {
        x[i] = 1;
    }
    ccq_status status = ccq_tensor_matvec(tensor, 0, rows, x, width, y, rows, error); // without decoding to memory
    float first = status == CCQ_STATUS_OK ? y[0] : NAN;
    free(x);
    free(y);
    return first;
}

static void describe(const ccq_tensor *tensor) {
    printf("%s [", ccq_tensor_name(tensor));
    const uint64_t *shape = ccq_tensor_shape(tensor);
    for (size_t i = 0; i < ccq_tensor_rank(tensor); i++) {
        printf(i ? ", %" PRIu64 : "%" PRIu64, shape[i]);
    }
    printf("] %s from %s, %.3f bpw", ccq_tensor_encoding(tensor), ccq_tensor_dtype(tensor), ccq_tensor_bpw(tensor));
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: read FILE.ccq\n");
        return EXIT_FAILURE;
    }
    ccq_file *model = NULL;
    ccq_error *error = NULL;
    if (ccq_open(argv[1], 0, &model, &error) != CCQ_STATUS_OK) {
        return fail(argv[1], error);
    }
    for (size_t i = 0; i < ccq_tensor_count(model); i++) {
        const ccq_tensor *tensor = ccq_tensor_at(model, i);
        describe(tensor);
        ccq_code code;
        if (ccq_tensor_code(tensor, &code)) {
            ccq_plane packed = ccq_tensor_plane(tensor, CCQ_PLANE_CODE); // as it lies in the file
            printf(", %zu bytes of %d-bit words, %zu a row", packed.len, code.word_bits, packed.row_stride);

            size_t width = ccq_tensor_in_features(tensor);
            float *row = malloc(width * sizeof *row);
            ccq_status status = ccq_tensor_decode_rows(tensor, 0, 1, row, width, &error);
            if (status == CCQ_STATUS_OK) {
                printf(", row 0 begins %.9g", row[0]);
            }
            free(row);
            if (!error) {
                printf(", times ones %.4g", times_ones(tensor, &error));
            }
            if (error) {
                ccq_close(model);
                return fail(argv[1], error);
            }
        }
        printf("\n");
    }
    ccq_close(model);
    return EXIT_SUCCESS;
}
