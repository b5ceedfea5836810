/* The simulated node: the JSON file named by $GPUEXEC_NVML_SIM, read again whenever it is replaced.
 *
 * Every exported function is written inside LOCKED(…), so the text does not change while it is read. A handle is
 * the address of an element of `handles`: [gpu][0] is the GPU itself, [gpu][1 + i] its MIG slice i.
 */
#ifndef GPUEXEC_NVML_SIM_NODE_H
#define GPUEXEC_NVML_SIM_NODE_H

#define _GNU_SOURCE
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#include <nvml.h>

#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>

#include "json.h"

enum { MAX_GPUS = 16, MAX_SLICES = 7, BUFFER_NVML_UUID = 96 };

struct nvmlDevice_st {
  int unused;
};

extern struct nvmlDevice_st sim_handles[MAX_GPUS][1 + MAX_SLICES];
extern pthread_mutex_t sim_lock;
extern int sim_initialised;

const char *sim_node(void);     /* cursor at the node, NULL if there is none */
const char *sim_gpu(int index); /* cursor at a GPU, NULL if there is none; as of the last sim_node() */

/* Note that a function was called; do not return while the node lists it under "hang". The lock is held, as by the
 * real library's: every other call hangs too. */
void sim_enter(const char *function);

/* Evaluate an expression of type nvmlReturn_t under the lock and return it. */
#define LOCKED(expression)                      \
  do {                                          \
    pthread_mutex_lock(&sim_lock);              \
    sim_enter(__func__);                        \
    nvmlReturn_t sim_result = (expression);     \
    pthread_mutex_unlock(&sim_lock);            \
    return sim_result;                          \
  } while (0)

typedef struct {
  int index;         /* of the GPU */
  int slice;         /* of the MIG slice, -1 for the GPU itself */
  const char *gpu;   /* cursor at the GPU */
  const char *value; /* cursor at the slice, or the GPU */
} Sim;

/* Look up a handle. Returns the errors of NVML: uninitialised, invalid argument. Does not return while the GPU lists
 * the function that was called under "hang". */
nvmlReturn_t sim_find(nvmlDevice_t device, Sim *found);

/* Fail for a lost GPU, and for fields and functions that the file lists as "unsupported". */
nvmlReturn_t sim_refuses(const Sim *sim, const char *field);

/* Look up a handle; fail for a lost GPU, and for fields and functions that the file lists as "unsupported". */
nvmlReturn_t sim_find_field(nvmlDevice_t device, const char *field, Sim *found);

nvmlReturn_t sim_text(const char *value, char *target, unsigned int size);
unsigned long long sim_used(const Sim *sim); /* bytes used by the listed processes, plus the number in the file */

#endif
