#include "reward/reward.h"

int main(int argc, char **argv) {
    return ht_program_main(&ht_reward_program, argc, argv);
}
