/*
 * launch.h: whether a program is one of several that a launcher (mpirun, srun) has started together.
 */
#ifndef HT_BASE_LAUNCH_H
#define HT_BASE_LAUNCH_H

/*
 * How many processes the launcher says it has started; 1 when there is none. Known are Open MPI, the Hydra and
 * PMI launchers (MPICH, Intel MPI) and Slurm's srun; of Slurm only the step counts, as a batch script itself runs
 * once whatever the job's size.
 */
int ht_launched_processes(void);

#endif
