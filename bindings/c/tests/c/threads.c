// Eight threads read one file at once and get what one thread gets.
//
//     threads TESTDATA
#include "check.h"
#include <pthread.h>

enum { THREADS = 8, ROUNDS = 50 };

static const ccq_file *file;

static uint64_t add(uint64_t sum, const float *values, size_t len) {
    const uint8_t *bytes = (const uint8_t *)values;
    for (size_t i = 0; i < len * sizeof *values; i++) {
        sum = (sum ^ bytes[i]) * 1099511628211u;
    }
    return sum;
}

// A checksum of every decoded tensor and its product with its first row, every other call a failure.
static uint64_t digest(void) {
    uint64_t sum = 14695981039346656037u;
    for (size_t i = 0; i < ccq_tensor_count(file); i++) {
        const ccq_tensor *tensor = ccq_tensor_named(file, ccq_tensor_name(ccq_tensor_at(file, i)));
        size_t rows = ccq_tensor_rows(tensor), len = rows * ccq_tensor_in_features(tensor);
        float *out = malloc(len * sizeof *out);
        CHECK(out);
        ccq_error *error = NULL;
        CHECK(ccq_tensor_decode_rows(tensor, 0, rows + 1, out, len, &error) == CCQ_STATUS_ROWS);
        CHECK(strstr(ccq_error_message(error), "rows 0.."));
        ccq_error_free(error);
        CHECK(ccq_tensor_decode_rows(tensor, 0, rows, out, len, NULL) == CCQ_STATUS_OK);
        sum = add(sum, out, len);
        float *y = malloc(rows * sizeof *y);
        CHECK(y && ccq_tensor_matvec(tensor, 0, rows, out, len / rows, y, rows, NULL) == CCQ_STATUS_OK);
        sum = add(sum, y, rows);
        free(y);
        free(out);
    }
    CHECK(ccq_verify(file, NULL) == CCQ_STATUS_OK);
    return sum;
}

static void *reader(void *expected) {
    for (int i = 0; i < ROUNDS; i++) {
        CHECK(digest() == *(const uint64_t *)expected);
    }
    return NULL;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    char folder[4096];
    ccq_file *open = open_good(join(folder, sizeof folder, argv[1], "golden"), "ccq-2.06.ccq", 0);
    file = open;
    uint64_t expected = digest();
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, reader, &expected) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    ccq_close(open);
    return EXIT_SUCCESS;
}
