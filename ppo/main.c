#include "ppo/ppo.h"

static const ht_program program = {
    .name = "halter-ppo",
    .summary = "proximal policy optimisation of a chat model against a helpfulness and a safety reward model",
    .commands = &ht_ppo_command,
    .command_count = 1,
};

int main(int argc, char **argv) {
    return ht_program_main(&program, argc, argv);
}
