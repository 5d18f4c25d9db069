#include "sft/sft.h"

int main(int argc, char **argv) {
    const ht_program program = {.name = "halter-sft",
                                .summary = "Supervised fine-tuning and pretraining of Llama models.",
                                .commands = &ht_sft_command,
                                .command_count = 1};
    return ht_program_main(&program, argc, argv);
}
