// Every status but CCQ_STATUS_INTERNAL, with its message: the damaged files of testdata/bad against its table, then the
// errors of calls.
//
//     errors TESTDATA
#include "check.h"

static bool seen[256];

// Notes a failure that was expected, checks its status, and frees it. `message` may be NULL.
static void expect(ccq_status found, ccq_status expected, ccq_error *error, const char *message) {
    if (found != expected || !error || (message && strcmp(message, ccq_error_message(error)) != 0)) {
        fprintf(stderr, "expected %s: %s\nfound %s: %s\n", ccq_status_name(expected), message ? message : "",
                ccq_status_name(found), ccq_error_message(error));
        exit(EXIT_FAILURE);
    }
    CHECK(ccq_error_status(error) == found);
    CHECK(strlen(ccq_error_message(error)) > 0);
    seen[found] = true;
    ccq_error_free(error);
}

static ccq_status named(const char *name) {
    for (uint32_t status = 0; status < 256; status++) {
        if (strcmp(ccq_status_name(status), name) == 0) {
            return (ccq_status)status;
        }
    }
    fprintf(stderr, "no status is called %s\n", name);
    exit(EXIT_FAILURE);
}

// One line of the table: file | phase | error | byte | message
static void damaged(const char *folder, char *line) {
    char *part[5];
    for (int i = 0; i < 5; i++) {
        part[i] = line;
        char *end = i < 4 ? strstr(line, " | ") : strchr(line, '\n');
        CHECK(end);
        line = end + (i < 4 ? 3 : 1);
        *end = '\0';
    }
    part[2][strcspn(part[2], "{")] = '\0';
    ccq_status expected = named(part[2]);
    char path[4096];
    join(path, sizeof path, folder, part[0]);
    for (uint32_t flags = 0; flags <= CCQ_IN_MEMORY; flags += CCQ_IN_MEMORY) {
        ccq_file *file = NULL;
        ccq_error *error = NULL;
        ccq_status status = ccq_open(path, flags, &file, &error);
        if (strcmp(part[1], "verify") == 0) {
            CHECK(status == CCQ_STATUS_OK);
            status = ccq_verify(file, &error);
        } else {
            CHECK(file == NULL);
        }
        expect(status, expected, error, part[4]);
        ccq_close(file);
        CHECK(ccq_open(path, flags, &file, NULL) == status || strcmp(part[1], "verify") == 0);
        if (strcmp(part[1], "verify") == 0) {
            ccq_close(file);
        }
    }
}

static void damaged_files(const char *testdata) {
    char folder[4096], path[4096], line[4096];
    join(folder, sizeof folder, testdata, "bad");
    FILE *table = fopen(join(path, sizeof path, folder, "expected.txt"), "r");
    CHECK(table);
    int files = 0;
    while (fgets(line, sizeof line, table)) {
        if (line[0] != '#') {
            damaged(folder, line);
            files++;
        }
    }
    fclose(table);
    CHECK(files > 100);
}

// A call that fails; it is given `&error`.
#define EXPECT(call, expected, message)             \
    do {                                            \
        ccq_error *error = NULL;                    \
        ccq_status status = (call);                 \
        expect(status, expected, error, message);   \
    } while (0)

typedef ccq_status product(const ccq_tensor *, size_t, size_t, const float *, size_t, float *, size_t, ccq_error **);

static void products(product *multiply, const ccq_tensor *raw, const ccq_tensor *coded) {
    float x[2 * 130] = {0}, y[8] = {0};
    EXPECT(multiply(NULL, 0, 4, x, 130, y, 4, &error), CCQ_STATUS_INVALID_ARGUMENT, NULL);
    EXPECT(multiply(coded, 0, 4, NULL, 130, y, 4, &error), CCQ_STATUS_INVALID_ARGUMENT, NULL);
    EXPECT(multiply(coded, 0, 4, x, 130, NULL, 4, &error), CCQ_STATUS_INVALID_ARGUMENT, NULL);
    EXPECT(multiply(coded, 0, 4, x, SIZE_MAX, y, 4, &error), CCQ_STATUS_INVALID_ARGUMENT, NULL);
    EXPECT(multiply(coded, 0, 4, x, 130, y, SIZE_MAX, &error), CCQ_STATUS_INVALID_ARGUMENT, NULL);
    EXPECT(multiply(raw, 0, 4, x, 130, y, 4, &error), CCQ_STATUS_NOT_QUANTIZED, "`raw.F32` is raw: take its plane");
    EXPECT(multiply(coded, 3, 5, x, 130, y, 2, &error), CCQ_STATUS_ROWS, "rows 3..5 of a matrix of 4 rows");
    EXPECT(multiply(coded, 2, 1, x, 130, y, 0, &error), CCQ_STATUS_ROWS, NULL);
    EXPECT(multiply(coded, 0, 4, x, 131, y, 4, &error), CCQ_STATUS_BUFFER_SIZE,
           "input of 131 values, expected vectors of 130");
    EXPECT(multiply(coded, 0, 4, x, 0, y, 0, &error), CCQ_STATUS_BUFFER_SIZE, NULL);
    EXPECT(multiply(coded, 0, 4, x, 260, y, 7, &error), CCQ_STATUS_BUFFER_SIZE,
           "output buffer of 7 values, expected 8");
    CHECK(multiply(coded, 0, 4, x, 260, y, 8, NULL) == CCQ_STATUS_OK);
}

static void calls(const char *testdata) {
    char folder[4096], path[4096];
    join(folder, sizeof folder, testdata, "golden");
    join(path, sizeof path, folder, "mixed.ccq");
    ccq_file *file = NULL;
    EXPECT(ccq_open("/not/there.ccq", 0, &file, &error), CCQ_STATUS_IO, NULL);
    EXPECT(ccq_open(NULL, 0, &file, &error), CCQ_STATUS_INVALID_ARGUMENT, NULL);
    EXPECT(ccq_open(path, 0, NULL, &error), CCQ_STATUS_INVALID_ARGUMENT, NULL);
    EXPECT(ccq_open(path, 1u << 31, &file, &error), CCQ_STATUS_INVALID_ARGUMENT, NULL);
    EXPECT(ccq_open(path, CCQ_RANDOM | CCQ_SEQUENTIAL, &file, &error), CCQ_STATUS_INVALID_ARGUMENT, NULL);
    EXPECT(ccq_open_bytes(NULL, 0, &file, &error), CCQ_STATUS_INVALID_ARGUMENT, NULL);
    EXPECT(ccq_open_bytes((const uint8_t *)"", SIZE_MAX, &file, &error), CCQ_STATUS_INVALID_ARGUMENT, NULL);
    EXPECT(ccq_verify(NULL, &error), CCQ_STATUS_INVALID_ARGUMENT, NULL);
    CHECK(file == NULL);

    file = open_good(folder, "mixed.ccq", 0);
    const ccq_tensor *raw = ccq_tensor_named(file, "raw.F32");
    const ccq_tensor *coded = ccq_tensor_named(file, "layer.0.weight");
    float out[2 * 130];
    EXPECT(ccq_tensor_decode_rows(NULL, 0, 1, out, 130, &error), CCQ_STATUS_INVALID_ARGUMENT, NULL);
    EXPECT(ccq_tensor_decode_rows(coded, 0, 1, NULL, 130, &error), CCQ_STATUS_INVALID_ARGUMENT, NULL);
    EXPECT(ccq_tensor_decode_rows(coded, 0, 1, out, SIZE_MAX, &error), CCQ_STATUS_INVALID_ARGUMENT, NULL);
    EXPECT(ccq_tensor_decode_rows(raw, 0, 1, out, 4, &error), CCQ_STATUS_NOT_QUANTIZED,
           "`raw.F32` is raw: take its plane");
    EXPECT(ccq_tensor_decode_rows(coded, 3, 5, out, 260, &error), CCQ_STATUS_ROWS,
           "rows 3..5 of a matrix of 4 rows");
    EXPECT(ccq_tensor_decode_rows(coded, 2, 1, out, 0, &error), CCQ_STATUS_ROWS, NULL);
    EXPECT(ccq_tensor_decode_rows(coded, 0, 2, out, 259, &error), CCQ_STATUS_BUFFER_SIZE,
           "output buffer of 259 values, expected 260");
    CHECK(ccq_tensor_decode_rows(coded, 0, 2, out, 260, NULL) == CCQ_STATUS_OK);
    products(ccq_tensor_matvec, raw, coded);
    products(ccq_tensor_matvec_int8, raw, coded);
    ccq_close(file);
}

// What returns no status takes NULL for a handle that is empty.
static void null_handles(void) {
    ccq_blob blob;
    ccq_entry entry;
    ccq_code code;
    uint16_t major = 9, minor = 9;
    ccq_format_version(NULL, &major, &minor);
    CHECK(major == 0 && minor == 0);
    CHECK(ccq_parameters(NULL) == 0 && ccq_blob_count(NULL) == 0 && ccq_metadata_count(NULL) == 0);
    CHECK(!ccq_blob_at(NULL, 0, &blob) && !ccq_blob_named(NULL, "a", &blob));
    CHECK(!ccq_metadata_at(NULL, 0, &entry) && !ccq_metadata_named(NULL, "a", &entry));
    CHECK(ccq_tensor_count(NULL) == 0 && !ccq_tensor_at(NULL, 0) && !ccq_tensor_named(NULL, "a"));
    CHECK(!ccq_tensor_name(NULL) && !ccq_tensor_dtype(NULL) && !ccq_tensor_encoding(NULL));
    CHECK(ccq_tensor_rank(NULL) == 0 && !ccq_tensor_shape(NULL) && ccq_tensor_bpw(NULL) == 0);
    CHECK(ccq_tensor_rows(NULL) == 0 && ccq_tensor_in_features(NULL) == 0 && ccq_tensor_stored_bytes(NULL) == 0);
    CHECK(!ccq_tensor_code(NULL, &code) && !ccq_tensor_plane(NULL, CCQ_PLANE_CODE).data);
    CHECK(ccq_error_status(NULL) == CCQ_STATUS_OK && strcmp(ccq_error_message(NULL), "") == 0);
    ccq_tensor_prefetch(NULL);
    ccq_error_free(NULL);
    ccq_close(NULL);
    CHECK(strcmp(ccq_status_name(99999), "unknown") == 0);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    damaged_files(argv[1]);
    calls(argv[1]);
    null_handles();
    for (uint32_t status = 1; status < 256; status++) {
        const char *name = ccq_status_name(status);
        if (strcmp(name, "unknown") != 0 && status != CCQ_STATUS_INTERNAL && !seen[status]) {
            fprintf(stderr, "nothing ended in %s\n", name);
            return EXIT_FAILURE;
        }
    }
    return EXIT_SUCCESS;
}
