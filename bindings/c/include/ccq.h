#ifndef CCQ_H
#define CCQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The C interface of ccq, the reader of .ccq files. Generated from bindings/c/src; CONTRIBUTING.md says how.
//
// Ownership: ccq_open and ccq_open_bytes make a ccq_file, which the caller gives back with ccq_close. Everything
// that is got from a file (tensors, names, planes, blobs, metadata) is borrowed from it: nothing of it is freed, and
// none of it is used after ccq_close. Errors are the caller's, see ccq_error_free.
//
// Threads: a ccq_file and everything got from it may be used by any number of threads at once; only ccq_close must be
// the last call. There is no global state.
//
// NULL: functions that return a status refuse a NULL argument with CCQ_STATUS_INVALID_ARGUMENT; the others return
// NULL, 0 or false. The error argument may always be NULL. Outputs are written on success only, the error on failure
// only.
//
// Strings are UTF-8 and end in a NUL, except where a length goes with them.

// Flag of ccq_open: read the whole file into memory, for network disks and files that others may change. Without it
// the file is mapped, and must not be modified or truncated until it is closed (replacing it by renaming another
// file over it is fine).
#define CCQ_IN_MEMORY 1

// Flag of ccq_open: the payload is going to be used from front to back, once.
#define CCQ_SEQUENTIAL 2

// Flag of ccq_open: the payload is going to be used here and there.
#define CCQ_RANDOM 4

// Flag of ccq_open: use huge pages where the system has them.
#define CCQ_HUGE_PAGES 8

// `scale_placement`: no local scales, the row is one group.
#define CCQ_SCALE_NONE 0

// `scale_placement`: in the low bits of a group's last word.
#define CCQ_SCALE_EMBEDDED 1

// `scale_placement`: two a byte in the local-scale plane, the even group in the high nibble.
#define CCQ_SCALE_NIBBLE 2

// `scale_placement`: a signed byte in the local-scale plane.
#define CCQ_SCALE_SIGNED8 3

// `cluster`: the stored word is the code.
#define CCQ_CLUSTER_NONE 0

// `cluster`: a u16 and an i16 a row, code = (a q + 256 zp + 128) >> 8.
#define CCQ_CLUSTER_Q8 1

// `cluster`: two floats a row, code = floor(fma(q, code_scale, code_zero_point + 0.5)).
#define CCQ_CLUSTER_F32 2

// Plane: packed words, rows at multiples of `row_stride` bytes.
#define CCQ_PLANE_CODE 1

// Plane: local scales outside the words.
#define CCQ_PLANE_LOCAL_SCALE 2

// Plane: a little-endian float a row.
#define CCQ_PLANE_SUPER_SCALE 3

// Plane: cluster parameters, a pair a row.
#define CCQ_PLANE_CLUSTER 4

// Plane: the bytes of a raw tensor.
#define CCQ_PLANE_RAW 5

// What came of a call. The numbers stay what they are; later versions add some.
typedef enum {
  // All went well.
  CCQ_STATUS_OK = 0,
  // The file is cut short.
  CCQ_STATUS_TRUNCATED = 1,
  // Not a .ccq file.
  CCQ_STATUS_BAD_MAGIC = 2,
  // A version of the format that this reader does not know.
  CCQ_STATUS_UNSUPPORTED_VERSION = 3,
  // A feature that this reader does not know.
  CCQ_STATUS_UNSUPPORTED_FEATURE = 4,
  // A reserved field is not zero.
  CCQ_STATUS_RESERVED = 5,
  // The front of the file does not match its checksums.
  CCQ_STATUS_CHECKSUM = 6,
  // More than this reader is willing to open.
  CCQ_STATUS_LIMIT_EXCEEDED = 7,
  // A computed size exceeds 64 bits.
  CCQ_STATUS_OVERFLOW = 8,
  // A shape that the encoding cannot have.
  CCQ_STATUS_BAD_SHAPE = 9,
  // A range outside the part of the file it belongs to.
  CCQ_STATUS_OUT_OF_BOUNDS = 10,
  // Ranges or records that do not follow each other as they must.
  CCQ_STATUS_LAYOUT = 11,
  // A name that nothing can have.
  CCQ_STATUS_BAD_NAME = 12,
  // A metadata entry that is not well-formed.
  CCQ_STATUS_BAD_METADATA = 13,
  // A code description or a set of planes that is not one.
  CCQ_STATUS_BAD_ENCODING = 14,
  // The file does not belong to the set of files it is opened with.
  CCQ_STATUS_SHARD = 15,
  // A tensor or blob does not match its checksum.
  CCQ_STATUS_PAYLOAD_CHECKSUM = 16,
  // Padding that is not zero.
  CCQ_STATUS_PADDING = 17,
  // A scale that is not a finite number.
  CCQ_STATUS_NON_FINITE = 18,
  // The system failed to read.
  CCQ_STATUS_IO = 19,
  // An argument is NULL, or has a value that stands for nothing.
  CCQ_STATUS_INVALID_ARGUMENT = 100,
  // The tensor is not quantized: it has no rows to decode.
  CCQ_STATUS_NOT_QUANTIZED = 101,
  // The rows asked for are not rows of the tensor.
  CCQ_STATUS_ROWS = 102,
  // A buffer does not hold exactly what is asked for.
  CCQ_STATUS_BUFFER_SIZE = 103,
  // A fault of this library: please report it.
  CCQ_STATUS_INTERNAL = 200,
} ccq_status;

// The type of a metadata value.
typedef enum {
  // `boolean`.
  CCQ_TYPE_BOOL = 1,
  // `u64`.
  CCQ_TYPE_U64 = 2,
  // `i64`.
  CCQ_TYPE_I64 = 3,
  // `f64`.
  CCQ_TYPE_F64 = 4,
  // UTF-8 in `bytes`; it may hold NULs and does not end in one.
  CCQ_TYPE_STRING = 5,
  // `bytes`.
  CCQ_TYPE_BYTES = 6,
} ccq_type;

// A failure: a status and a message. Made by the call that failed, given back with ccq_error_free.
typedef struct ccq_error ccq_error;

// An open file, or all files of a model that is in several.
typedef struct ccq_file ccq_file;

// A tensor of an open file; it lives as long as the file.
typedef struct ccq_tensor ccq_tensor;

// Bytes with their length; `data` is NULL where there are none.
typedef struct {
  // The first byte.
  const uint8_t *data;
  // How many.
  size_t len;
} ccq_bytes;

// One of the model's own files, such as its config.json.
typedef struct {
  // A relative path.
  const char *name;
  // The contents.
  ccq_bytes bytes;
} ccq_blob;

// A metadata value, to be read as its type says.
typedef union {
  // True or false.
  bool boolean;
  // An unsigned integer.
  uint64_t u64;
  // A signed integer.
  int64_t i64;
  // A floating-point number.
  double f64;
  // A string or bytes.
  ccq_bytes bytes;
} ccq_value;

// A metadata entry.
typedef struct {
  // Its key.
  const char *key;
  // Which part of `value` holds it.
  ccq_type value_type;
  // Its value.
  ccq_value value;
} ccq_entry;

// Overlapping states of a word, (L, N, S): N states of L bits, each S bits below the one before.
typedef struct {
  // L.
  uint8_t state_bits;
  // N.
  uint8_t states;
  // S.
  uint8_t shift;
} ccq_segment;

// The code description: all that a decoder needs besides the planes. The fields are those of the format's record
// (spec, clause 4.7 and chapter 6).
typedef struct {
  // From the top of the word down; those in use come first.
  ccq_segment segments[4];
  // Segments in use.
  uint8_t segment_count;
  // Bits of a stored word: 8 or 16, little-endian.
  uint8_t word_bits;
  // CCQ_SCALE_NONE, _EMBEDDED, _NIBBLE or _SIGNED8.
  uint8_t scale_placement;
  // Bits of a local scale.
  uint8_t scale_bits;
  // Weights in a group; 0 where the row is one group.
  uint16_t group_size;
  // CCQ_CLUSTER_NONE, _Q8 or _F32.
  uint8_t cluster;
} ccq_code;

// A plane as it lies in the file; in a mapped file at a multiple of 256 bytes.
typedef struct {
  // The first byte, or NULL where the tensor has no such plane.
  const uint8_t *data;
  // Bytes.
  size_t len;
  // Bytes from row to row of a code plane, otherwise 0.
  size_t row_stride;
} ccq_plane;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The status of an error; CCQ_STATUS_OK for NULL.
ccq_status ccq_error_status(const ccq_error *error);

// What went wrong, where, and what to do; it lives as long as the error. Empty for NULL.
const char *ccq_error_message(const ccq_error *error);

// Frees an error; nothing happens for NULL.
void ccq_error_free(ccq_error *error);

// The name of a status, such as "BadMagic"; "unknown" for a number that is none. It lives for ever.
const char *ccq_status_name(uint32_t status);

// The version of this library, such as "0.1.0". It lives for ever.
const char *ccq_version(void);

// Opens a file; where it is one of several of a model (x-00002-of-00003.ccq), all of them, as if they were one: the
// others are found beside it. This costs time in proportion to the index, unless files are read into memory: a tensor
// is read when it is first touched. `flags` is 0 or a sum of CCQ_IN_MEMORY, CCQ_SEQUENTIAL, CCQ_RANDOM and
// CCQ_HUGE_PAGES. A message about another file than `path` begins with its name.
ccq_status ccq_open(const char *path,
                    uint32_t flags,
                    ccq_file **file,
                    ccq_error **error);

// Opens a file that is in memory already, at any alignment. The memory is borrowed: it must stay as it is until
// ccq_close. A file that is one of several of a model is opened alone.
ccq_status ccq_open_bytes(const uint8_t *bytes,
                          size_t len,
                          ccq_file **file,
                          ccq_error **error);

// Closes a file, and with it everything got from it; nothing happens for NULL.
void ccq_close(ccq_file *file);

// Reads everything and checks what opening cannot: checksums, padding, scales that must be finite. Of a model in
// several files the message begins with the name of the one it is about.
ccq_status ccq_verify(const ccq_file *file,
                      ccq_error **error);

// The version of the format that the file was written in; either pointer may be NULL.
void ccq_format_version(const ccq_file *file, uint16_t *major, uint16_t *minor);

// Weights and other elements over all tensors.
uint64_t ccq_parameters(const ccq_file *file);

// How many of the model's own files there are.
size_t ccq_blob_count(const ccq_file *file);

// The blob at an index, in ascending order of their names. False, and `blob` as it was, where there is none.
bool ccq_blob_at(const ccq_file *file, size_t index, ccq_blob *blob);

// The blob of a name. False, and `blob` as it was, where there is none.
bool ccq_blob_named(const ccq_file *file,
                    const char *name,
                    ccq_blob *blob);

// How many metadata entries there are.
size_t ccq_metadata_count(const ccq_file *file);

// The entry at an index, in ascending order of their keys. False, and `entry` as it was, where there is none.
bool ccq_metadata_at(const ccq_file *file, size_t index, ccq_entry *entry);

// The entry of a key. False, and `entry` as it was, where there is none.
bool ccq_metadata_named(const ccq_file *file,
                        const char *key,
                        ccq_entry *entry);

// How many tensors there are.
size_t ccq_tensor_count(const ccq_file *file);

// The tensor at an index, in ascending order of their names, or NULL.
const ccq_tensor *ccq_tensor_at(const ccq_file *file, size_t index);

// The tensor of a name, or NULL.
const ccq_tensor *ccq_tensor_named(const ccq_file *file, const char *name);

// The tensor's name.
const char *ccq_tensor_name(const ccq_tensor *tensor);

// Element type of the source, as safetensors names it: "BF16". It is that of the stored bytes of a raw tensor.
const char *ccq_tensor_dtype(const ccq_tensor *tensor);

// How the values are stored: "raw", or a code, such as "ccq-2.06" or "wint4 g32".
const char *ccq_tensor_encoding(const ccq_tensor *tensor);

// Number of dimensions.
size_t ccq_tensor_rank(const ccq_tensor *tensor);

// As many dimensions as the rank says: [..., out_features, in_features].
const uint64_t *ccq_tensor_shape(const ccq_tensor *tensor);

// Rows of a quantized tensor: all dimensions but the last. 0 if it is raw.
uint64_t ccq_tensor_rows(const ccq_tensor *tensor);

// Weights of a row of a quantized tensor. 0 if it is raw.
uint64_t ccq_tensor_in_features(const ccq_tensor *tensor);

// Bytes stored for the tensor.
uint64_t ccq_tensor_stored_bytes(const ccq_tensor *tensor);

// Bits a weight, every stored byte counted; 0 for an empty tensor.
double ccq_tensor_bpw(const ccq_tensor *tensor);

// Describes the code of a quantized tensor. False, and `code` as it was, if it is raw.
bool ccq_tensor_code(const ccq_tensor *tensor, ccq_code *code);

// A plane of a tensor, without a copy. `kind` is one of CCQ_PLANE_CODE, _LOCAL_SCALE, _SUPER_SCALE, _CLUSTER, _RAW.
ccq_plane ccq_tensor_plane(const ccq_tensor *tensor,
                           uint32_t kind);

// Decodes the rows `start` to `end` - 1 of a quantized tensor into `out`, row after row. `out_len` is the number of
// floats there, exactly (end - start) * in_features.
ccq_status ccq_tensor_decode_rows(const ccq_tensor *tensor,
                                  size_t start,
                                  size_t end,
                                  float *out,
                                  size_t out_len,
                                  ccq_error **error);

// y = W x: multiplies the rows `start` to `end` - 1 of a quantized tensor with one vector or several, in floats.
//
// `x` is vectors of in_features floats, one after the other, and `x_len` the number of all floats there. `y` gets as
// many products of a row as there are vectors, row after row; `y_len` is exactly (end - start) * vectors. Weights are
// decoded in registers, not to memory. Threads can share a tensor by rows. Each product is within 2^-20 of the sum of
// its terms' magnitudes; in which order the terms are summed depends on the processor.
ccq_status ccq_tensor_matvec(const ccq_tensor *tensor,
                             size_t start,
                             size_t end,
                             const float *x,
                             size_t x_len,
                             float *y,
                             size_t y_len,
                             ccq_error **error);

// ccq_tensor_matvec with vectors that are first rounded to eight bits, with a scale for each 64 values: several times
// as fast. A value is off by half its scale at most, the largest magnitude of the 64 over 254; infinities and NaNs
// make products unspecified.
ccq_status ccq_tensor_matvec_int8(const ccq_tensor *tensor,
                                  size_t start,
                                  size_t end,
                                  const float *x,
                                  size_t x_len,
                                  float *y,
                                  size_t y_len,
                                  ccq_error **error);

// Asks the system to load a tensor of a mapped file, without waiting for it.
void ccq_tensor_prefetch(const ccq_tensor *tensor);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* CCQ_H */
