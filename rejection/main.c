#include "rejection/rejection.h"

int main(int argc, char **argv) {
    const ht_program program = {
        .name = "halter-rejection",
        .summary = "Sample several responses to each prompt and choose the best for fine-tuning.",
        .commands = &ht_rejection_command,
        .command_count = 1,
    };
    return ht_program_main(&program, argc, argv);
}
