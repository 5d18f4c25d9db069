/*
 * lines.h: a text's lines, one at a time in constant memory, with a limit on their length.
 */
#ifndef HT_BASE_LINES_H
#define HT_BASE_LINES_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "core/base/error.h"

/* Bytes of a line that a program reads: far above a prompt of the longest context (a megabyte); what is
 * longer, a file that is no text above all, is refused before it fills the memory. */
#define HT_LINE_BYTES_MAX ((size_t)16 << 20)

/*
 * Lines of a source. `read` gives the next bytes, borrowed until the next call; *size = 0 at the end.
 *
 * ht_line_next: *line = the next one without its line end (LF or CRLF), NUL-terminated, borrowed until the
 * next call; a line above `limit` bytes gives *line NULL and its *size all the same. *found = 0 at the end.
 */
typedef struct ht_line_reader {
    ht_status (*read)(void *source, const char **data, size_t *size, ht_error *err);
    void *source; /* borrowed */
    size_t limit;
    int64_t number; /* of the line given last, from 1 */
    char *buffer;
    size_t capacity;
    const char *rest; /* of what was read last */
    size_t rest_size;
} ht_line_reader;
ht_status ht_line_next(ht_line_reader *reader, const char **line, size_t *size, int *found, ht_error *err);
void ht_line_release(ht_line_reader *reader);

/*
 * A file of JSON lines, "-" for standard input, where a bad line ends the work.
 *
 * ht_json_lines_next: *line = the next one that is not blank, borrowed until the next call; NULL at the end. HT_ERR_IO when the file
 * cannot be read, HT_ERR_DATA for a line above HT_LINE_BYTES_MAX; the message begins with "PATH:LINE: ".
 * ht_json_lines_fail_in: puts the same in front of what was wrong with the line given last. Returns err->status.
 */
typedef struct ht_json_lines {
    const char *path; /* borrowed */
    FILE *stream;
    ht_line_reader reader;
    char chunk[1 << 16];
} ht_json_lines;
ht_status ht_json_lines_open(ht_json_lines *file, const char *path, ht_error *err);
ht_status ht_json_lines_next(ht_json_lines *file, const char **line, size_t *size, ht_error *err);
ht_status ht_json_lines_fail_in(const ht_json_lines *file, ht_error *err);
void ht_json_lines_close(ht_json_lines *file); /* also after a failed open */

#endif
