/*
 * csv_write.h: writing CSV records (RFC 4180, with line ends LF), by libcsv.
 */
#ifndef HT_ANNOTATIONS_CSV_WRITE_H
#define HT_ANNOTATIONS_CSV_WRITE_H

#include <stddef.h>
#include <stdio.h>

/*
 * Writes one record: each field quoted, quotes inside doubled; NULL fields are empty. Errors stay in the
 * stream (ferror; ht_file_commit reports them).
 */
void ht_csv_write(FILE *stream, const char *const *fields, size_t count);

#endif
