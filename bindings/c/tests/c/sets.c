// Models in several files: mixed.ccq in three, opened by any of them, is the same as in one. Then what is no set.
//
//     sets FOLDER    as the test makes it
#include "check.h"

static const char *const NAMES[] = {"x-00001-of-00003.ccq", "x-00002-of-00003.ccq", "x-00003-of-00003.ccq"};

static void same_bytes(ccq_bytes a, ccq_bytes b) {
    CHECK(a.len == b.len && (!a.len || memcmp(a.data, b.data, a.len) == 0));
}

static void same_tensor(const ccq_tensor *a, const ccq_tensor *b) {
    CHECK(a && b && strcmp(ccq_tensor_name(a), ccq_tensor_name(b)) == 0);
    CHECK(strcmp(ccq_tensor_encoding(a), ccq_tensor_encoding(b)) == 0 && ccq_tensor_rank(a) == ccq_tensor_rank(b));
    for (uint32_t kind = CCQ_PLANE_CODE; kind <= CCQ_PLANE_RAW; kind++) {
        ccq_plane ours = ccq_tensor_plane(a, kind), theirs = ccq_tensor_plane(b, kind);
        same_bytes((ccq_bytes){ours.data, ours.len}, (ccq_bytes){theirs.data, theirs.len});
        CHECK(ours.row_stride == theirs.row_stride);
    }
}

static void same(const ccq_file *a, const ccq_file *b) {
    CHECK(ccq_tensor_count(a) == ccq_tensor_count(b) && ccq_parameters(a) == ccq_parameters(b));
    for (size_t i = 0; i < ccq_tensor_count(a); i++) {
        same_tensor(ccq_tensor_at(a, i), ccq_tensor_at(b, i));
        CHECK(ccq_tensor_named(a, ccq_tensor_name(ccq_tensor_at(b, i))) == ccq_tensor_at(a, i));
    }
    CHECK(ccq_blob_count(a) == ccq_blob_count(b) && ccq_metadata_count(a) == ccq_metadata_count(b));
    for (size_t i = 0; i < ccq_blob_count(a); i++) {
        ccq_blob ours, theirs;
        CHECK(ccq_blob_at(a, i, &ours) && ccq_blob_at(b, i, &theirs) && strcmp(ours.name, theirs.name) == 0);
        same_bytes(ours.bytes, theirs.bytes);
        CHECK(ccq_blob_named(a, theirs.name, &ours));
    }
    for (size_t i = 0; i < ccq_metadata_count(a); i++) {
        ccq_entry ours, theirs;
        CHECK(ccq_metadata_at(a, i, &ours) && ccq_metadata_at(b, i, &theirs) && strcmp(ours.key, theirs.key) == 0);
        CHECK(ours.value_type == theirs.value_type);
    }
    uint16_t major = 9, minor = 9;
    ccq_format_version(a, &major, &minor);
    CHECK(major == 1 && minor == 0);
    CHECK(ccq_verify(a, NULL) == CCQ_STATUS_OK);
}

static void any_file(const char *folder) {
    ccq_file *one = open_good(folder, "mixed.ccq", 0);
    for (size_t i = 0; i < 3; i++) {
        for (uint32_t flags = 0; flags <= CCQ_IN_MEMORY; flags += CCQ_IN_MEMORY) {
            ccq_file *set = open_good(folder, NAMES[i], flags);
            same(set, one);
            ccq_close(set);
        }
    }
    ccq_close(one);
}

// Bytes are one file, which is opened alone.
static void from_bytes(const char *folder) {
    char path[4096];
    static uint8_t bytes[1 << 20];
    FILE *stream = fopen(join(path, sizeof path, folder, NAMES[1]), "rb");
    CHECK(stream);
    size_t len = fread(bytes, 1, sizeof bytes, stream);
    CHECK(len > 0 && len < sizeof bytes);
    fclose(stream);
    ccq_file *file = NULL, *set = open_good(folder, NAMES[0], 0);
    CHECK(ccq_open_bytes(bytes, len, &file, NULL) == CCQ_STATUS_OK);
    CHECK(ccq_tensor_count(file) > 0 && ccq_tensor_count(file) < ccq_tensor_count(set));
    for (size_t i = 0; i < ccq_tensor_count(file); i++) {
        const ccq_tensor *tensor = ccq_tensor_at(file, i);
        same_tensor(tensor, ccq_tensor_named(set, ccq_tensor_name(tensor)));
    }
    ccq_close(file);
    ccq_close(set);
}

// Opening or verifying `folder/sub/name` ends in a status, with a message that has these parts and, unless it is about
// that file, begins with the path of another.
static void refused(const char *folder, const char *sub, const char *name, ccq_status expected, const char *about,
                    const char *part) {
    char inner[4096], path[4096], begin[4096];
    join(inner, sizeof inner, folder, sub);
    ccq_file *file = NULL;
    ccq_error *error = NULL;
    ccq_status status = ccq_open(join(path, sizeof path, inner, name), 0, &file, &error);
    if (status == CCQ_STATUS_OK) {
        status = ccq_verify(file, &error);
    }
    ccq_close(file);
    const char *message = ccq_error_message(error);
    size_t len = about ? strlen(join(begin, sizeof begin, inner, about)) : 0;
    bool placed = about ? strncmp(message, begin, len) == 0 && message[len] == ':' : message[0] == '[';
    if (status != expected || ccq_error_status(error) != expected || !placed || !strstr(message, part)) {
        fprintf(stderr, "%s: expected %s about %s: %s\nfound %s: %s\n", path, ccq_status_name(expected),
                about ? about : "itself", part, ccq_status_name(status), message);
        exit(EXIT_FAILURE);
    }
    ccq_error_free(error);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    const char *folder = argv[1];
    any_file(folder);
    from_bytes(folder);
    refused(folder, "missing", NAMES[0], CCQ_STATUS_SHARD, NAMES[2], "shard 3 of 3 is missing");
    refused(folder, "missing", NAMES[1], CCQ_STATUS_SHARD, NAMES[2], "shard 3 of 3 is missing");
    refused(folder, "twice", NAMES[0], CCQ_STATUS_SHARD, NAMES[2], NAMES[1]);
    refused(folder, "foreign", NAMES[0], CCQ_STATUS_SHARD, NAMES[2], NAMES[0]);
    refused(folder, "short", NAMES[0], CCQ_STATUS_TRUNCATED, NAMES[2], "cut short");
    refused(folder, "damaged", NAMES[0], CCQ_STATUS_PAYLOAD_CHECKSUM, NAMES[2], "[5.9]");
    refused(folder, "renamed", "y.ccq", CCQ_STATUS_SHARD, NULL, "[3.7]");
    return EXIT_SUCCESS;
}
