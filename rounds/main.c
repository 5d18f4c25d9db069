#include "rounds/rounds.h"

static const ht_program program = {
    .name = "halter-rounds",
    .summary = "from a pretrained model to an aligned one, in rounds",
    .commands = &ht_rounds_command,
    .command_count = 1,
};

int main(int argc, char **argv) {
    return ht_program_main(&program, argc, argv);
}
