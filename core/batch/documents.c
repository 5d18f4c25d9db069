#include "core/batch/documents.h"

#include <string.h>

/* Takes the next line off the front of `rest`, without its end ("\n" or "\r\n"). */
static ht_span next_line(ht_span *rest) {
    const char *newline = memchr(rest->data, '\n', rest->size);
    size_t taken = newline ? (size_t)(newline - rest->data) + 1 : rest->size;
    ht_span line = {rest->data, newline ? taken - 1 : taken};
    if (line.size && line.data[line.size - 1] == '\r') line.size--;
    rest->data += taken;
    rest->size -= taken;
    return line;
}

ht_span ht_document_next(ht_span *rest, ht_documents separated) {
    ht_span document = {rest->data, 0};
    if (separated == HT_DOCUMENTS_WHOLE) {
        document.size = rest->size;
        if (rest->size) rest->data += rest->size;
        rest->size = 0;
        return document;
    }
    while (rest->size) {
        ht_span line = next_line(rest);
        if (line.size == 0) {
            if (document.size) break;
            continue;
        }
        if (document.size == 0) document.data = line.data;
        document.size = (size_t)(line.data + line.size - document.data);
        if (separated == HT_DOCUMENTS_LINE) break;
    }
    return document;
}
