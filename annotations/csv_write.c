#include "annotations/csv_write.h"

#include <string.h>

#include <csv.h>

void ht_csv_write(FILE *stream, const char *const *fields, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (i > 0) fputc(',', stream);
        if (fields[i] != NULL) csv_fwrite(stream, fields[i], strlen(fields[i]));
    }
    fputc('\n', stream);
}
