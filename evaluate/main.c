#include "evaluate/evaluate.h"

int main(int argc, char **argv) {
    return ht_program_main(&ht_evaluate_program, argc, argv);
}
