/*
 * commands.h: the commands of halter-annotations about the database itself.
 */
#ifndef HT_ANNOTATIONS_COMMANDS_H
#define HT_ANNOTATIONS_COMMANDS_H

#include "core/config/config.h"

extern const ht_command ht_annotations_import_command;
extern const ht_command ht_annotations_stats_command;
extern const ht_command ht_annotations_export_command;
extern const ht_command ht_annotations_check_command;

#endif
