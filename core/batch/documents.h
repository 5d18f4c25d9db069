/*
 * documents.h: the documents of a plain-text file, in place.
 */
#ifndef HT_BATCH_DOCUMENTS_H
#define HT_BATCH_DOCUMENTS_H

#include <stddef.h>

/* How documents are separated. Lines end with "\n" or "\r\n". */
typedef enum ht_documents {
    HT_DOCUMENTS_BLANK_LINE, /* separated by one or more empty lines */
    HT_DOCUMENTS_LINE,       /* one a line; empty lines are none */
    HT_DOCUMENTS_WHOLE       /* the text is one document, every byte of it */
} ht_documents;

/* A stretch of text, borrowed. */
typedef struct ht_span {
    const char *data;
    size_t size;
} ht_span;

/* Takes the next document off the front of `rest`; size 0 at the end. Lines inside a document keep their ends, its last
 * line does not (but for HT_DOCUMENTS_WHOLE). */
ht_span ht_document_next(ht_span *rest, ht_documents separated);

#endif
