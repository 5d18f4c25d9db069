/*
 * csv_write.h: writing CSV records (RFC 4180, with line ends LF).
 *
 * A field is quoted when it holds a comma, a quote, CR or LF, or begins or ends with a space; quotes inside are doubled.
 * A record of one empty field is written as "" so that it is no empty line.
 */
#ifndef HT_ANNOTATIONS_CSV_WRITE_H
#define HT_ANNOTATIONS_CSV_WRITE_H

#include <stddef.h>
#include <stdio.h>

/* Writes one record; NULL fields are empty. Errors stay in the stream (ferror; ht_file_commit reports them). */
void ht_csv_write(FILE *stream, const char *const *fields, size_t count);

#endif
