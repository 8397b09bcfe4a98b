// Checks that stay in release builds, and paths.
#ifndef CHECK_H
#define CHECK_H

#include <ccq.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                          \
    do {                                                                          \
        if (!(condition)) {                                                       \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);       \
            exit(EXIT_FAILURE);                                                   \
        }                                                                         \
    } while (0)

static inline const char *join(char *path, size_t size, const char *folder, const char *name) {
    int len = snprintf(path, size, "%s/%s", folder, name);
    CHECK(len > 0 && (size_t)len < size);
    return path;
}

// Opens a file that is known to be good.
static inline ccq_file *open_good(const char *folder, const char *name, uint32_t flags) {
    char path[4096];
    ccq_file *file = NULL;
    ccq_error *error = NULL;
    ccq_status status = ccq_open(join(path, sizeof path, folder, name), flags, &file, &error);
    if (status != CCQ_STATUS_OK) {
        fprintf(stderr, "%s: %s\n", path, ccq_error_message(error));
    }
    CHECK(status == CCQ_STATUS_OK && file && !error);
    return file;
}

#endif
