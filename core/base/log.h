/*
 * log.h: messages for people, on stderr.
 *
 * Data goes to stdout, everything else through here. Levels below the threshold (HT_LOG_INFO at first) cost
 * nothing. The sink may be replaced (tests). Safe to call from several threads: lines never mix.
 */
#ifndef HT_BASE_LOG_H
#define HT_BASE_LOG_H

typedef enum ht_log_level {
    HT_LOG_DEBUG,
    HT_LOG_INFO,
    HT_LOG_WARN,
    HT_LOG_ERROR,
    HT_LOG_SILENT
} ht_log_level;

void ht_log_set_level(ht_log_level level);
ht_log_level ht_log_get_level(void);

/* Replaces the sink; NULL restores stderr. `line` has no newline and no prefix. */
void ht_log_set_sink(void (*sink)(ht_log_level level, const char *line));

/* One line on stderr; warnings start with "warning: ", errors with "error: ". */
void ht_log(ht_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * Shows `line` as the live last line of the terminal, in place of the one before; messages are printed above
 * it. NULL takes it away. For progress.h; meant for a stderr that is a terminal.
 */
void ht_log_set_live_line(const char *line);

#define ht_debug(...) ht_log(HT_LOG_DEBUG, __VA_ARGS__)
#define ht_info(...)  ht_log(HT_LOG_INFO, __VA_ARGS__)
#define ht_warn(...)  ht_log(HT_LOG_WARN, __VA_ARGS__)

#endif
