#include "core/base/lines.h"

#include <errno.h>
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

ht_status ht_line_next_json(ht_line_reader *reader, const char **line, size_t *size, int *found,
                            ht_error *err) {
    do {
        ht_status status = ht_line_next(reader, line, size, found, err);
        if (status != HT_OK || !*found) return status;
    } while (*line && strspn(*line, " \t\r") == *size);
    if (*line) return HT_OK;
    return ht_fail(err, HT_ERR_DATA, "a line of %zu bytes is above the limit of %zu", *size, reader->limit);
}

void ht_line_release(ht_line_reader *reader) {
    free(reader->buffer);
    reader->buffer = NULL;
    reader->capacity = 0;
}

ht_status ht_text_file_open(ht_text_file *file, const char *path, ht_error *err) {
    file->path = path;
    file->stream = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (!file->stream) return ht_fail(err, HT_ERR_IO, "cannot open \"%s\": %s", path, strerror(errno));
    return HT_OK;
}

ht_status ht_text_file_read(void *source, const char **data, size_t *size, ht_error *err) {
    ht_text_file *file = source;
    *data = file->chunk;
    *size = fread(file->chunk, 1, sizeof file->chunk, file->stream);
    if (ferror(file->stream))
        return ht_fail(err, HT_ERR_IO, "cannot read \"%s\": %s", file->path, strerror(errno));
    return HT_OK;
}

void ht_text_file_close(ht_text_file *file) {
    if (file->stream && file->stream != stdin) fclose(file->stream);
    file->stream = NULL;
}
