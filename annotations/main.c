/*
 * halter-annotations: annotations in, out, counted and checked.
 */
#include "annotations/commands.h"
#include "annotations/sample.h"
#include "annotations/synth.h"

int main(int argc, char **argv) {
    const ht_command commands[] = {
        ht_annotations_import_command,
        ht_annotations_stats_command,
        ht_annotations_export_command,
        ht_annotations_check_command,
        ht_annotations_sample_command,
        ht_annotations_synth_command,
    };
    const ht_program program = {
        .name = "halter-annotations",
        .summary = "Keep prompts, demonstrations and preference annotations in a project's database.",
        .commands = commands,
        .command_count = sizeof commands / sizeof *commands,
    };
    return ht_program_main(&program, argc, argv);
}
