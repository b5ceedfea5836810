/* Initialisation and shutdown, readings of the node itself, and look-up of handles. */
#include "node.h"

#include <sys/types.h>
#include <time.h>
#include <unistd.h>

struct nvmlDevice_st sim_handles[MAX_GPUS][1 + MAX_SLICES];
pthread_mutex_t sim_lock = PTHREAD_MUTEX_INITIALIZER;
int sim_initialised;

static char *text, *previous_text; /* a call that hung goes on with what it had found */
static _Thread_local const char *called = "";
static char text_path[4096];
static struct stat text_stat;
/* What every call looks up, found once when the text is read: with eight GPUs the text is long. */
static const char *hang_names, *call_log, *gpus[MAX_GPUS];
static int gpu_count;

static int load(const char *path) {
  struct stat now;
  if (stat(path, &now)) return 0;
  if (text && !strcmp(path, text_path) && now.st_ino == text_stat.st_ino && now.st_size == text_stat.st_size &&
      now.st_mtim.tv_sec == text_stat.st_mtim.tv_sec && now.st_mtim.tv_nsec == text_stat.st_mtim.tv_nsec)
    return 1;
  FILE *file = fopen(path, "re");
  if (!file) return 0;
  char *fresh = calloc(1, (size_t)now.st_size + 1);
  size_t got = fresh ? fread(fresh, 1, (size_t)now.st_size, file) : 0;
  fclose(file);
  if (!fresh || got != (size_t)now.st_size) {
    free(fresh);
    return 0;
  }
  free(previous_text);
  previous_text = text;
  text = fresh;
  text_stat = now;
  snprintf(text_path, sizeof text_path, "%s", path);
  const char *node = json_blank(text), *list = json_member(node, "gpus");
  hang_names = json_member(node, "hang");
  call_log = json_member(node, "call_log");
  gpu_count = json_length(list);
  if (gpu_count > MAX_GPUS) gpu_count = MAX_GPUS;
  for (int i = 0; i < gpu_count; i++) gpus[i] = json_element(list, i);
  return 1;
}

const char *sim_node(void) {
  const char *path = getenv("GPUEXEC_NVML_SIM");
  return path && load(path) ? json_blank(text) : NULL;
}

const char *sim_gpu(int index) { return index >= 0 && index < gpu_count ? gpus[index] : NULL; }

/* Return whether a name is that of the function that was called. Its version may be left out. */
static int is_called(const char *name) {
  char wanted[128];
  json_copy(name, wanted, sizeof wanted);
  size_t length = strlen(wanted);
  return !strncmp(called, wanted, length) && (!called[length] || !strncmp(called + length, "_v", 2));
}

/* Return whether the names, "hang" of the node or a GPU, list the function. */
static int hangs(const char *names) {
  const char *name;
  for (int i = 0; (name = json_element(names, i)); i++)
    if (is_called(name)) return 1;
  return 0;
}

/* Append a line with pid and function to the file of this name, if there is one. */
static void log_call(const char *name) {
  char path[4096];
  json_copy(name, path, sizeof path);
  FILE *file = *path ? fopen(path, "ae") : NULL;
  if (!file) return;
  fprintf(file, "%d %s\n", (int)getpid(), called);
  fclose(file);
}

static void hang_once_logged(int first) {
  const struct timespec pause = {0, 10 * 1000 * 1000};
  if (first) log_call(json_member(sim_node(), "hang_log"));
  nanosleep(&pause, NULL);
  sim_node(); /* it may say something else by now */
}

void sim_enter(const char *function) {
  called = function;
  if (!sim_node()) return;
  log_call(call_log);
  for (int first = 1; hangs(hang_names); first = 0) hang_once_logged(first);
}

nvmlReturn_t sim_find(nvmlDevice_t device, Sim *found) {
  if (!sim_initialised) return NVML_ERROR_UNINITIALIZED;
  long offset = device ? (long)(device - &sim_handles[0][0]) : -1;
  if (offset < 0 || offset >= MAX_GPUS * (1 + MAX_SLICES)) return NVML_ERROR_INVALID_ARGUMENT;
  found->index = (int)(offset / (1 + MAX_SLICES));
  found->slice = (int)(offset % (1 + MAX_SLICES)) - 1;
  for (int first = 1; hangs(json_member(sim_gpu(found->index), "hang")); first = 0) hang_once_logged(first);
  found->gpu = sim_gpu(found->index);
  found->value = found->slice < 0 ? found->gpu
                                  : json_element(json_member(json_member(found->gpu, "mig"), "slices"), found->slice);
  return found->value ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t sim_refuses(const Sim *sim, const char *field) {
  if (json_true(json_member(sim->gpu, "lost"))) return NVML_ERROR_GPU_IS_LOST;
  const char *refused = json_member(sim->gpu, "unsupported"), *name;
  for (int i = 0; (name = json_element(refused, i)); i++)
    if (json_equals(name, field) || is_called(name)) return NVML_ERROR_NOT_SUPPORTED;
  return NVML_SUCCESS;
}

nvmlReturn_t sim_find_field(nvmlDevice_t device, const char *field, Sim *found) {
  nvmlReturn_t result = sim_find(device, found);
  return result == NVML_SUCCESS ? sim_refuses(found, field) : result;
}

nvmlReturn_t sim_text(const char *value, char *target, unsigned int size) {
  if (!value) return NVML_ERROR_NOT_SUPPORTED;
  if ((size_t)(json_skip_string(value) - value) - 1 > size) return NVML_ERROR_INSUFFICIENT_SIZE;
  json_copy(value, target, size);
  return NVML_SUCCESS;
}

static nvmlReturn_t init(void) {
  const char *node = sim_node();
  if (!node) return NVML_ERROR_DRIVER_NOT_LOADED;
  nvmlReturn_t refused = (nvmlReturn_t)json_number(json_member(node, "init_error"), NVML_SUCCESS);
  if (refused == NVML_SUCCESS) sim_initialised++;
  return refused;
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
  (void)flags;
  LOCKED(init());
}

nvmlReturn_t nvmlInit_v2(void) { LOCKED(init()); }

nvmlReturn_t nvmlShutdown(void) { LOCKED(sim_initialised ? (sim_initialised--, NVML_SUCCESS) : NVML_ERROR_UNINITIALIZED); }

const char *nvmlErrorString(nvmlReturn_t result) {
  switch (result) {
    case NVML_SUCCESS: return "Success";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
    case NVML_ERROR_NOT_FOUND: return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT: return "Timeout";
    case NVML_ERROR_LIBRARY_NOT_FOUND: return "NVML Shared Library Not Found";
    case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    default: return "Unknown Error";
  }
}

static nvmlReturn_t system_text(const char *key, char *target, unsigned int size) {
  return sim_initialised ? sim_text(json_member(sim_node(), key), target, size) : NVML_ERROR_UNINITIALIZED;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
  LOCKED(system_text("driver_version", version, length));
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length) {
  LOCKED(system_text("driver_version", version, length));
}

static nvmlReturn_t cuda_version(int *version) {
  if (!sim_initialised) return NVML_ERROR_UNINITIALIZED;
  *version = (int)json_number(json_member(sim_node(), "cuda_driver_version"), 0);
  return *version ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) { LOCKED(cuda_version(version)); }

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) { LOCKED(cuda_version(version)); }

static int count_gpus(void) { return sim_node() ? gpu_count : 0; }

static nvmlReturn_t get_count(unsigned int *count) {
  if (!sim_initialised) return NVML_ERROR_UNINITIALIZED;
  *count = (unsigned int)count_gpus();
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) { LOCKED(get_count(count)); }

/* Return the handle of a GPU or slice. As in the real library, a lost GPU cannot be opened: "lost_late" is a
 * GPU that is lost after it was opened. */
static nvmlReturn_t hand_out(int gpu, int slice, nvmlDevice_t *device) {
  Sim sim;
  nvmlReturn_t result = sim_find(&sim_handles[gpu][1 + slice], &sim);
  if (result != NVML_SUCCESS) return NVML_ERROR_NOT_FOUND;
  if (json_true(json_member(sim.gpu, "lost")) && !json_true(json_member(sim.gpu, "lost_late")))
    return NVML_ERROR_GPU_IS_LOST;
  *device = &sim_handles[gpu][1 + slice];
  return NVML_SUCCESS;
}

static nvmlReturn_t by_index(unsigned int index, nvmlDevice_t *device) {
  if (!sim_initialised) return NVML_ERROR_UNINITIALIZED;
  return index < (unsigned int)count_gpus() ? hand_out((int)index, -1, device) : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
  LOCKED(by_index(index, device));
}

static nvmlReturn_t by_text(const char *key, const char *wanted, int slices, nvmlDevice_t *device) {
  if (!sim_initialised) return NVML_ERROR_UNINITIALIZED;
  for (int i = 0; i < count_gpus(); i++) {
    for (int j = -1; j < (slices ? MAX_SLICES : 0); j++) {
      Sim sim;
      if (sim_find(&sim_handles[i][1 + j], &sim) == NVML_SUCCESS && json_equals(json_member(sim.value, key), wanted))
        return hand_out(i, j, device);
    }
  }
  return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
  LOCKED(by_text("uuid", uuid, 1, device));
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device) {
  LOCKED(by_text("pci_bus_id", bus_id, 0, device));
}
