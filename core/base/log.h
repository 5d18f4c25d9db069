/*
 * log.h: messages for people, on stderr.
 *
 * Data goes to stdout, everything else through here. Levels below the threshold cost nothing. The sink may be
 * replaced (tests, progress line).
 */
#ifndef HT_BASE_LOG_H
#define HT_BASE_LOG_H

typedef enum ht_log_level { HT_LOG_DEBUG, HT_LOG_INFO, HT_LOG_WARN, HT_LOG_ERROR, HT_LOG_SILENT } ht_log_level;

void ht_log_set_level(ht_log_level level);

/* Replaces the sink; NULL restores stderr. `line` has no newline. */
void ht_log_set_sink(void (*sink)(ht_log_level level, const char *line));

void ht_log(ht_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define ht_debug(...) ht_log(HT_LOG_DEBUG, __VA_ARGS__)
#define ht_info(...)  ht_log(HT_LOG_INFO, __VA_ARGS__)
#define ht_warn(...)  ht_log(HT_LOG_WARN, __VA_ARGS__)

#endif
