#include "core/base/lines.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

ht_status ht_line_next(ht_line_reader *reader, const char **line, size_t *size, int *found, ht_error *err) {
    ht_status status;
    int ended = 0;
    *line = NULL;
    *size = 0;
    *found = 0;
    while (!ended) {
        if (reader->rest_size == 0) {
            HT_TRY(reader->read(reader->source, &reader->rest, &reader->rest_size, err));
            if (reader->rest_size == 0) break;
        }
        const char *end = memchr(reader->rest, '\n', reader->rest_size);
        size_t taken = end ? (size_t)(end - reader->rest) : reader->rest_size;
        if (*size + taken <= reader->limit) {
            HT_TRY(ht_grow(&reader->buffer, &reader->capacity, *size + taken + 1, 1, err));
            memcpy(reader->buffer + *size, reader->rest, taken);
        }
        *size += taken;
        *found = 1;
        ended = end != NULL;
        reader->rest += taken + (size_t)ended;
        reader->rest_size -= taken + (size_t)ended;
    }
    reader->number += *found;
    if (!*found || *size > reader->limit) return HT_OK;
    if (*size && reader->buffer[*size - 1] == '\r') --*size;
    reader->buffer[*size] = '\0';
    *line = reader->buffer;
    return HT_OK;
done:
    *found = 0;
    return status;
}

void ht_line_release(ht_line_reader *reader) {
    free(reader->buffer);
    reader->buffer = NULL;
    reader->capacity = 0;
}

static ht_status read_chunk(void *source, const char **data, size_t *size, ht_error *err) {
    ht_json_lines *file = source;
    *data = file->chunk;
    *size = fread(file->chunk, 1, sizeof file->chunk, file->stream);
    if (ferror(file->stream))
        return ht_fail(err, HT_ERR_IO, "cannot read \"%s\": %s", file->path, strerror(errno));
    return HT_OK;
}

ht_status ht_json_lines_open(ht_json_lines *file, const char *path, ht_error *err) {
    file->path = path;
    file->reader = (ht_line_reader){.read = read_chunk, .source = file, .limit = HT_LINE_BYTES_MAX};
    file->stream = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (!file->stream) return ht_fail(err, HT_ERR_IO, "cannot open \"%s\": %s", path, strerror(errno));
    return HT_OK;
}

ht_status ht_json_lines_next(ht_json_lines *file, const char **line, size_t *size, ht_error *err) {
    int found;
    do {
        if (ht_line_next(&file->reader, line, size, &found, err) != HT_OK) return ht_json_lines_fail_in(file, err);
    } while (*line && strspn(*line, " \t\r") == *size);
    if (*line || !found) return HT_OK;
    ht_fail(err, HT_ERR_DATA, "a line of %zu bytes is above the limit of %zu", *size, file->reader.limit);
    return ht_json_lines_fail_in(file, err);
}

ht_status ht_json_lines_fail_in(const ht_json_lines *file, ht_error *err) {
    return ht_fail_in(err, "%s:%" PRId64, file->path, file->reader.number);
}

void ht_json_lines_close(ht_json_lines *file) {
    ht_line_release(&file->reader);
    if (file->stream && file->stream != stdin) fclose(file->stream);
    file->stream = NULL;
}
