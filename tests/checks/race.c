/*
 * What ThreadSanitizer must report, and what it must not.
 *   race racy    two threads add to one number and do not wait for each other
 *   race sound   each reads, after the end of a loop, what the other one has written in it
 */
#include <stdio.h>
#include <string.h>

enum { COUNT = 1000 };

static void racy(long *sum) {
#pragma omp parallel for num_threads(2)
    for (long i = 0; i < COUNT; i++)
        *sum += i;
}

static void sound(long *sum) {
    long written[COUNT], taken[COUNT];
#pragma omp parallel for num_threads(2)
    for (long i = 0; i < COUNT; i++)
        written[i] = i;
#pragma omp parallel for num_threads(2)
    for (long i = 0; i < COUNT; i++)
        taken[i] = written[COUNT - 1 - i];
    for (long i = 0; i < COUNT; i++)
        *sum += taken[i];
}

int main(int argc, char **argv) {
    long sum = 0;
    if (argc == 2 && strcmp(argv[1], "racy") == 0)
        racy(&sum);
    else if (argc == 2 && strcmp(argv[1], "sound") == 0)
        sound(&sum);
    else
        return 2;
    printf("%ld\n", sum);
    return 0;
}
