// What is in testdata/golden/mixed.ccq, opened in every way. The values are those of mixed.txt.
//
//     contents TESTDATA
#include "check.h"

static void tensors(const ccq_file *file) {
    const ccq_tensor *tensor = ccq_tensor_named(file, "layer.0.weight");
    CHECK(tensor && strcmp(ccq_tensor_name(tensor), "layer.0.weight") == 0);
    CHECK(ccq_tensor_rank(tensor) == 2 && ccq_tensor_shape(tensor)[0] == 4 && ccq_tensor_shape(tensor)[1] == 130);
    CHECK(strcmp(ccq_tensor_encoding(tensor), "ccq-2.06") == 0 && strcmp(ccq_tensor_dtype(tensor), "BF16") == 0);
    CHECK(ccq_tensor_rows(tensor) == 4 && ccq_tensor_in_features(tensor) == 130);
    CHECK(ccq_tensor_stored_bytes(tensor) == 192 + 8 + 16 + 16);
    CHECK(ccq_tensor_bpw(tensor) == 8.0 * 232 / 520);
    ccq_tensor_prefetch(tensor);

    ccq_code code;
    CHECK(ccq_tensor_code(tensor, &code));
    CHECK(code.segment_count == 1 && code.word_bits == 8 && code.group_size == 64);
    CHECK(code.segments[0].state_bits == 6 && code.segments[0].states == 4 && code.segments[0].shift == 3);
    CHECK(code.segments[1].state_bits == 0);
    CHECK(code.scale_placement == CCQ_SCALE_NIBBLE && code.scale_bits == 4 && code.cluster == CCQ_CLUSTER_Q8);

    ccq_plane words = ccq_tensor_plane(tensor, CCQ_PLANE_CODE);
    CHECK(words.data && words.len == 192 && words.row_stride == 48);
    CHECK(ccq_tensor_plane(tensor, CCQ_PLANE_LOCAL_SCALE).len == 8);
    CHECK(ccq_tensor_plane(tensor, CCQ_PLANE_SUPER_SCALE).len == 16);
    CHECK(ccq_tensor_plane(tensor, CCQ_PLANE_CLUSTER).len == 16);
    CHECK(!ccq_tensor_plane(tensor, CCQ_PLANE_RAW).data && !ccq_tensor_plane(tensor, 99).data);

    float all[4 * 130], row[130];
    CHECK(ccq_tensor_decode_rows(tensor, 0, 4, all, 520, NULL) == CCQ_STATUS_OK);
    uint32_t first;
    memcpy(&first, all, sizeof first);
    CHECK(first == 0x40533332);
    for (size_t i = 0; i < 4; i++) {
        CHECK(ccq_tensor_decode_rows(tensor, i, i + 1, row, 130, NULL) == CCQ_STATUS_OK);
        CHECK(memcmp(row, all + i * 130, sizeof row) == 0);
    }

    const ccq_tensor *raw = ccq_tensor_named(file, "raw.F32");
    CHECK(strcmp(ccq_tensor_encoding(raw), "raw") == 0 && strcmp(ccq_tensor_dtype(raw), "F32") == 0);
    CHECK(!ccq_tensor_code(raw, &code) && ccq_tensor_rows(raw) == 0 && ccq_tensor_in_features(raw) == 0);
    CHECK(ccq_tensor_plane(raw, CCQ_PLANE_RAW).len == 32 && !ccq_tensor_plane(raw, CCQ_PLANE_CODE).data);
    CHECK(!ccq_tensor_named(file, "") && !ccq_tensor_named(file, "layer.0") && !ccq_tensor_named(file, NULL));
    CHECK(!ccq_tensor_at(file, ccq_tensor_count(file)));
    for (size_t i = 0; i < ccq_tensor_count(file); i++) {
        const ccq_tensor *each = ccq_tensor_at(file, i);
        CHECK(ccq_tensor_named(file, ccq_tensor_name(each)) == each);
    }
}

static float magnitude(float value) {
    return value < 0 ? -value : value;
}

// Products of two vectors, all rows at once and row by row, against decoded rows summed in doubles.
static void products(const ccq_tensor *tensor) {
    enum { WIDTH = 130, ROWS = 4 };
    CHECK(ccq_tensor_rows(tensor) == ROWS && ccq_tensor_in_features(tensor) == WIDTH);
    float weights[ROWS * WIDTH], x[2 * WIDTH], y[ROWS * 2], rounded[ROWS * 2], row[2];
    for (size_t i = 0; i < 2 * WIDTH; i++) {
        x[i] = (float)((i * 7919) % 1009) / 504 - 1;
    }
    CHECK(ccq_tensor_decode_rows(tensor, 0, ROWS, weights, ROWS * WIDTH, NULL) == CCQ_STATUS_OK);
    CHECK(ccq_tensor_matvec(tensor, 0, ROWS, x, 2 * WIDTH, y, ROWS * 2, NULL) == CCQ_STATUS_OK);
    CHECK(ccq_tensor_matvec_int8(tensor, 0, ROWS, x, 2 * WIDTH, rounded, ROWS * 2, NULL) == CCQ_STATUS_OK);
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t m = 0; m < 2; m++) {
            double sum = 0, terms = 0, weight = 0;
            for (size_t i = 0; i < WIDTH; i++) {
                double w = weights[r * WIDTH + i];
                sum += w * x[m * WIDTH + i];
                terms += magnitude((float)(w * x[m * WIDTH + i]));
                weight += magnitude((float)w);
            }
            CHECK(magnitude((float)(y[r * 2 + m] - sum)) <= terms / (1 << 20));
            // No value exceeds 1.01: half a scale is 1.01 / 254.
            CHECK(magnitude((float)(rounded[r * 2 + m] - sum)) <= weight * 1.01 / 254 + terms / (1 << 18));
        }
        CHECK(ccq_tensor_matvec(tensor, r, r + 1, x, 2 * WIDTH, row, 2, NULL) == CCQ_STATUS_OK);
        CHECK(memcmp(row, y + r * 2, sizeof row) == 0);
        CHECK(ccq_tensor_matvec_int8(tensor, r, r + 1, x, 2 * WIDTH, row, 2, NULL) == CCQ_STATUS_OK);
        CHECK(memcmp(row, rounded + r * 2, sizeof row) == 0);
    }
}

static void metadata(const ccq_file *file) {
    ccq_entry entry;
    CHECK(ccq_metadata_count(file) == 12);
    CHECK(ccq_metadata_named(file, "bool.true", &entry) && entry.value_type == CCQ_TYPE_BOOL && entry.value.boolean);
    CHECK(ccq_metadata_named(file, "u64", &entry) && entry.value_type == CCQ_TYPE_U64 && entry.value.u64 == UINT64_MAX);
    CHECK(ccq_metadata_named(file, "i64", &entry) && entry.value_type == CCQ_TYPE_I64 && entry.value.i64 == INT64_MIN);
    CHECK(ccq_metadata_named(file, "f64", &entry) && entry.value_type == CCQ_TYPE_F64 && entry.value.f64 == -0.1);
    CHECK(ccq_metadata_named(file, "string", &entry) && entry.value_type == CCQ_TYPE_STRING);
    CHECK(entry.value.bytes.len == 21 && memcmp(entry.value.bytes.data, "one line\nand another", 21) == 0);
    CHECK(ccq_metadata_named(file, "bytes", &entry) && entry.value_type == CCQ_TYPE_BYTES);
    CHECK(entry.value.bytes.len == 4 && memcmp(entry.value.bytes.data, "\x00\x01\x02\xff", 4) == 0);
    CHECK(ccq_metadata_named(file, "bytes.empty", &entry) && !entry.value.bytes.data && !entry.value.bytes.len);
    CHECK(!ccq_metadata_named(file, "nothing", &entry) && !ccq_metadata_named(file, "u64", NULL));
    CHECK(ccq_metadata_at(file, 0, &entry) && strcmp(entry.key, "bool.false") == 0 && !entry.value.boolean);
    CHECK(!ccq_metadata_at(file, 12, &entry));
}

static void blobs(const ccq_file *file) {
    ccq_blob blob;
    CHECK(ccq_blob_count(file) == 4 && ccq_blob_at(file, 0, &blob) && strcmp(blob.name, "config.json") == 0);
    CHECK(blob.bytes.len == 21 && blob.bytes.data[0] == '{');
    CHECK(ccq_blob_named(file, "tokenizer/merges.txt", &blob) && blob.bytes.len == 14);
    CHECK(ccq_blob_named(file, "tokenizer/empty", &blob) && blob.bytes.len == 0 && !blob.bytes.data);
    CHECK(!ccq_blob_named(file, "tokenizer", &blob) && !ccq_blob_at(file, 4, &blob));
}

static void all(const ccq_file *file) {
    uint16_t major = 9, minor = 9;
    ccq_format_version(file, &major, &minor);
    ccq_format_version(file, NULL, NULL);
    CHECK(major == 1 && minor == 0 && ccq_parameters(file) == 1276);
    tensors(file);
    products(ccq_tensor_named(file, "layer.0.weight"));
    products(ccq_tensor_named(file, "layer.1.weight"));
    metadata(file);
    blobs(file);
    CHECK(ccq_verify(file, NULL) == CCQ_STATUS_OK);
}

// The file as bytes of the caller, at an odd address.
static void from_bytes(const char *path) {
    FILE *stream = fopen(path, "rb");
    CHECK(stream && fseek(stream, 0, SEEK_END) == 0);
    long len = ftell(stream);
    CHECK(len > 0 && fseek(stream, 0, SEEK_SET) == 0);
    uint8_t *bytes = malloc((size_t)len + 1);
    CHECK(bytes && fread(bytes + 1, 1, (size_t)len, stream) == (size_t)len);
    fclose(stream);
    ccq_file *file = NULL;
    CHECK(ccq_open_bytes(bytes + 1, (size_t)len, &file, NULL) == CCQ_STATUS_OK);
    all(file);
    ccq_close(file);
    free(bytes);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    char folder[4096], path[4096];
    join(folder, sizeof folder, argv[1], "golden");
    uint32_t flags[] = {0, CCQ_SEQUENTIAL, CCQ_RANDOM, CCQ_HUGE_PAGES, CCQ_IN_MEMORY, CCQ_IN_MEMORY | CCQ_HUGE_PAGES};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        ccq_file *file = open_good(folder, "mixed.ccq", flags[i]);
        all(file);
        ccq_close(file);
    }
    from_bytes(join(path, sizeof path, folder, "mixed.ccq"));
    CHECK(strlen(ccq_version()) > 0);
    return EXIT_SUCCESS;
}
