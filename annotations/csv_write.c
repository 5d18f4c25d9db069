#include "annotations/csv_write.h"

#include <string.h>

static void write_field(FILE *stream, const char *field) {
    size_t length = strlen(field);
    int plain = strpbrk(field, ",\"\r\n") == NULL && field[0] != ' ' && (length == 0 || field[length - 1] != ' ');
    if (plain) {
        fputs(field, stream);
        return;
    }
    fputc('"', stream);
    for (const char *at = field; *at != '\0'; at++) {
        if (*at == '"') fputc('"', stream);
        fputc(*at, stream);
    }
    fputc('"', stream);
}

void ht_csv_write(FILE *stream, const char *const *fields, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (i > 0) fputc(',', stream);
        if (fields[i] != NULL && fields[i][0] != '\0')
            write_field(stream, fields[i]);
        else if (count == 1)
            fputs("\"\"", stream);
    }
    fputc('\n', stream);
}
