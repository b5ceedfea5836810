/* Readings of one device: identity, memory, utilisation, processes, MIG. */
#include "node.h"

#include <time.h>
#include <unistd.h>

/* Return a number from the file, or "not supported" if the file does not have it. */
static nvmlReturn_t number(nvmlDevice_t device, const char *field, unsigned long long *value) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, field, &sim);
  const char *found = result == NVML_SUCCESS ? json_member(sim.value, field) : NULL;
  if (result == NVML_SUCCESS && !found) return NVML_ERROR_NOT_SUPPORTED;
  *value = json_number(found, 0);
  return result;
}

static nvmlReturn_t small_number(nvmlDevice_t device, const char *field, unsigned int *value) {
  unsigned long long wide = 0;
  nvmlReturn_t result = number(device, field, &wide);
  if (result == NVML_SUCCESS) *value = (unsigned int)wide;
  return result;
}

static nvmlReturn_t string(nvmlDevice_t device, const char *field, char *target, unsigned int size) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, field, &sim);
  return result == NVML_SUCCESS ? sim_text(json_member(sim.value, field), target, size) : result;
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
  LOCKED(string(device, "uuid", uuid, length));
}

static nvmlReturn_t get_name(nvmlDevice_t device, char *name, unsigned int length) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, "name", &sim);
  if (result != NVML_SUCCESS) return result;
  char gpu[64], profile[32], whole[128];
  json_copy(json_member(sim.gpu, "name"), gpu, sizeof gpu);
  json_copy(json_member(sim.value, "profile"), profile, sizeof profile);
  snprintf(whole, sizeof whole, sim.slice < 0 ? "%s" : "%s MIG %s", gpu, profile);
  if (strlen(whole) >= length) return NVML_ERROR_INSUFFICIENT_SIZE;
  strcpy(name, whole);
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
  LOCKED(get_name(device, name, length));
}

static nvmlReturn_t get_index(nvmlDevice_t device, unsigned int *index) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, "index", &sim);
  if (result == NVML_SUCCESS) *index = (unsigned int)sim.index;
  return result;
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index) { LOCKED(get_index(device, index)); }

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor) {
  LOCKED(small_number(device, "minor_number", minor));
}

static nvmlReturn_t get_pci(nvmlDevice_t device, nvmlPciInfo_t *pci) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, "pci_bus_id", &sim);
  if (result != NVML_SUCCESS) return result;
  memset(pci, 0, sizeof *pci);
  json_copy(json_member(sim.gpu, "pci_bus_id"), pci->busId, sizeof pci->busId);
  sscanf(pci->busId, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device);
  snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:%02X.0", pci->domain & 0xFFFF, pci->bus & 0xFF,
           pci->device & 0x1F);
  pci->pciDeviceId = 0x10DE;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci) { LOCKED(get_pci(device, pci)); }

/* ---- memory and processes ---- */

/* Whether a process is there, and more than an entry of its parent's: a dead one holds no memory. */
static int is_alive(int pid) {
  char path[64], line[512] = "";
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  FILE *file = fopen(path, "re");
  if (!file) return 0;
  size_t length = fread(line, 1, sizeof line - 1, file);
  fclose(file);
  line[length] = 0;
  const char *end = strrchr(line, ')');
  return end && end[1] && end[2] != 'Z' && end[2] != 'X';
}

/* An entry that is "while_alive" ends with its process, as a real driver frees what a process holds. */
static int is_listed(const Sim *sim, const char *process) {
  if (json_true(json_member(process, "while_alive")) && !is_alive((int)json_number(json_member(process, "pid"), 0)))
    return 0;
  int slice = (int)json_number(json_member(process, "slice"), (unsigned long long)-1);
  return sim->slice < 0 || slice == sim->slice;
}

unsigned long long sim_used(const Sim *sim) {
  unsigned long long used = json_number(json_member(sim->value, "memory_used_bytes"), 0);
  const char *list = json_member(sim->gpu, "processes"), *process;
  for (int i = 0; (process = json_element(list, i)); i++)
    if (is_listed(sim, process)) used += json_number(json_member(process, "used_bytes"), 0);
  return used;
}

static nvmlReturn_t memory(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, "memory", &sim);
  if (result != NVML_SUCCESS) return result;
  unsigned int version = memory->version;
  memset(memory, 0, sizeof *memory);
  memory->version = version;
  memory->total = json_number(json_member(sim.value, "memory_total_bytes"), 0);
  memory->reserved = json_number(json_member(sim.value, "memory_reserved_bytes"), 0);
  memory->used = sim_used(&sim);
  memory->free = memory->total - memory->reserved - memory->used;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *answer) {
  LOCKED(memory(device, answer));
}

/* Version 1 counts the reserved part as used. */
static nvmlReturn_t memory_v1(nvmlDevice_t device, nvmlMemory_t *answer) {
  nvmlMemory_v2_t full = {0};
  nvmlReturn_t result = memory(device, &full);
  if (result == NVML_SUCCESS) *answer = (nvmlMemory_t){full.total, full.free, full.used + full.reserved};
  return result;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *answer) { LOCKED(memory_v1(device, answer)); }

/* Append the caller's pid to the file that the node names as "listing_log", if it does. */
static void log_listing(void) {
  char path[4096];
  json_copy(json_member(sim_node(), "listing_log"), path, sizeof path);
  FILE *file = *path ? fopen(path, "ae") : NULL;
  if (!file) return;
  fprintf(file, "%d\n", (int)getpid());
  fclose(file);
}

static nvmlReturn_t processes(nvmlDevice_t device, const char *kind, unsigned int *count, nvmlProcessInfo_t *infos) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, "processes", &sim);
  if (result != NVML_SUCCESS) return result;
  const char *list = json_true(json_member(sim_node(), "hide_pids")) ? NULL : json_member(sim.gpu, "processes");
  const char *process;
  unsigned int found = 0, room = *count;
  for (int i = 0; (process = json_element(list, i)); i++) {
    const char *own = json_member(process, "kind");
    if (!is_listed(&sim, process) || !(own ? json_equals(own, kind) : !strcmp(kind, "compute"))) continue;
    if (found < room) {
      infos[found].pid = (unsigned int)json_number(json_member(process, "pid"), 0);
      infos[found].usedGpuMemory =
          json_number(json_member(process, "used_bytes"), (unsigned long long)NVML_VALUE_NOT_AVAILABLE);
      infos[found].gpuInstanceId = infos[found].computeInstanceId = 0xFFFFFFFF;
    }
    found++;
  }
  *count = found;
  if (found && found <= room) log_listing();
  return found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                     nvmlProcessInfo_t *infos) {
  LOCKED(processes(device, "compute", count, infos));
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                      nvmlProcessInfo_t *infos) {
  LOCKED(processes(device, "graphics", count, infos));
}

/* ---- utilisation and capabilities ---- */

static nvmlReturn_t utilization(nvmlDevice_t device, nvmlUtilization_t *rates) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, "utilization_percent", &sim);
  if (result != NVML_SUCCESS) return result;
  const char *load = json_member(sim.gpu, "utilization_percent");
  if (!load || sim.slice >= 0 || json_true(json_member(json_member(sim.gpu, "mig"), "enabled")))
    return NVML_ERROR_NOT_SUPPORTED;
  rates->gpu = (unsigned int)json_number(load, 0);
  rates->memory = (unsigned int)json_number(json_member(sim.gpu, "memory_utilization_percent"), 0);
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates) {
  LOCKED(utilization(device, rates));
}

static nvmlReturn_t capability(nvmlDevice_t device, int *major, int *minor) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, "compute_capability", &sim);
  if (result != NVML_SUCCESS) return result;
  const char *pair = json_member(sim.gpu, "compute_capability");
  if (!pair) return NVML_ERROR_NOT_SUPPORTED;
  *major = (int)json_number(json_element(pair, 0), 0);
  *minor = (int)json_number(json_element(pair, 1), 0);
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
  LOCKED(capability(device, major, minor));
}

static nvmlReturn_t compute_mode(nvmlDevice_t device, nvmlComputeMode_t *mode) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, "compute_mode", &sim);
  const char *name = result == NVML_SUCCESS ? json_member(sim.gpu, "compute_mode") : NULL;
  *mode = json_equals(name, "prohibited")          ? NVML_COMPUTEMODE_PROHIBITED
          : json_equals(name, "exclusive_process") ? NVML_COMPUTEMODE_EXCLUSIVE_PROCESS
                                                   : NVML_COMPUTEMODE_DEFAULT;
  return result;
}

nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, nvmlComputeMode_t *mode) {
  LOCKED(compute_mode(device, mode));
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor, unsigned int *degrees) {
  (void)sensor;
  LOCKED(small_number(device, "temperature_c", degrees));
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatts) {
  LOCKED(small_number(device, "power_mw", milliwatts));
}

/* Return a counter: what the file says it was at "counted_at_ns" of the monotonic clock, and what has been added since
 * by its rate per second. So the energy is the integral of the power. */
static nvmlReturn_t counter(const Sim *sim, const char *field, const char *rate, unsigned long long *value) {
  nvmlReturn_t result = sim_refuses(sim, field);
  const char *counted = result == NVML_SUCCESS ? json_member(sim->gpu, field) : NULL;
  const char *since = json_member(sim->gpu, "counted_at_ns");
  if (result == NVML_SUCCESS && !counted) return NVML_ERROR_NOT_SUPPORTED;
  *value = json_number(counted, 0);
  if (result == NVML_SUCCESS && since) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double seconds = (double)now.tv_sec + (double)now.tv_nsec * 1e-9 - (double)json_number(since, 0) * 1e-9;
    if (seconds > 0) *value += (unsigned long long)(seconds * (double)json_number(json_member(sim->gpu, rate), 0));
  }
  return result;
}

static nvmlReturn_t energy(nvmlDevice_t device, unsigned long long *millijoules) {
  Sim sim;
  nvmlReturn_t result = sim_find(device, &sim);
  return result == NVML_SUCCESS ? counter(&sim, "energy_mj", "power_mw", millijoules) : result;
}

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *millijoules) {
  LOCKED(energy(device, millijoules));
}

static nvmlReturn_t pcie_rate(nvmlDevice_t device, nvmlPcieUtilCounter_t direction, unsigned int *kilobytes) {
  unsigned long long bytes = 0;
  int sends = direction == NVML_PCIE_UTIL_TX_BYTES;
  nvmlReturn_t result = number(device, sends ? "pcie_tx_bytes_per_s" : "pcie_rx_bytes_per_s", &bytes);
  if (result == NVML_SUCCESS) *kilobytes = (unsigned int)(bytes / 1000);
  return result;
}

nvmlReturn_t nvmlDeviceGetPcieThroughput(nvmlDevice_t device, nvmlPcieUtilCounter_t direction,
                                         unsigned int *kilobytes) {
  const struct timespec counts_for = {0, 20 * 1000 * 1000};
  nanosleep(&counts_for, NULL);
  LOCKED(pcie_rate(device, direction, kilobytes));
}

nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long *reasons) {
  LOCKED(number(device, "clocks_event_reasons", reasons));
}

nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned int *milliwatts) {
  LOCKED(small_number(device, "power_limit_mw", milliwatts));
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz) {
  LOCKED(small_number(device, type == NVML_CLOCK_MEM ? "memory_clock_mhz" : "sm_clock_mhz", mhz));
}

/* Return whether a field is an unsigned int, as the real library has it; most are 64 bits wide. */
static int is_small(unsigned int field) {
  return (field >= NVML_FI_DEV_RETIRED_SBE && field <= NVML_FI_DEV_RETIRED_PENDING) ||
         (field >= NVML_FI_DEV_REMAPPED_COR && field <= NVML_FI_DEV_REMAPPED_FAILURE) ||
         field == NVML_FI_DEV_GET_GPU_RECOVERY_ACTION;
}

/* Return one of NVML's fields. "throttled_ns" of a GPU: {field id: nanoseconds}. "fields": {field id: number}. */
static nvmlReturn_t field_value(const Sim *sim, nvmlFieldValue_t *field) {
  field->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
  if (field->fieldId == NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION)
    return counter(sim, "energy_mj", "power_mw", &field->value.ullVal);
  if (field->fieldId == NVML_FI_DEV_PCIE_COUNT_TX_BYTES)
    return counter(sim, "pcie_tx_bytes", "pcie_tx_bytes_per_s", &field->value.ullVal);
  if (field->fieldId == NVML_FI_DEV_PCIE_COUNT_RX_BYTES)
    return counter(sim, "pcie_rx_bytes", "pcie_rx_bytes_per_s", &field->value.ullVal);
  if (field->fieldId == NVML_FI_DEV_POWER_AVERAGE) {
    const char *power = json_member(sim->gpu, "power_average_mw");
    field->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
    field->value.uiVal = (unsigned int)json_number(power, 0);
    return power ? sim_refuses(sim, "power_average_mw") : NVML_ERROR_NOT_SUPPORTED;
  }
  char key[16];
  snprintf(key, sizeof key, "%u", field->fieldId);
  const char *found = json_member(json_member(sim->gpu, "throttled_ns"), key);
  if (!found) found = json_member(json_member(sim->gpu, "fields"), key);
  if (is_small(field->fieldId)) {
    field->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
    field->value.uiVal = (unsigned int)json_number(found, 0);
  } else {
    field->value.ullVal = json_number(found, 0);
  }
  return found ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

/* As in the real library, each field has its own return code. */
static nvmlReturn_t field_values(nvmlDevice_t device, int count, nvmlFieldValue_t *values) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, "throttled_ns", &sim);
  for (int i = 0; result == NVML_SUCCESS && i < count; i++)
    values[i].nvmlReturn = field_value(&sim, &values[i]);
  return result;
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values) {
  LOCKED(field_values(device, count, values));
}

static nvmlReturn_t affinity(nvmlDevice_t device, unsigned int words, unsigned long *mask) {
  Sim sim; /* the kernel answers this, so it works for a lost GPU too */
  nvmlReturn_t result = sim_find(device, &sim);
  const char *cpus = result == NVML_SUCCESS ? json_member(sim.gpu, "cpu_affinity") : NULL, *cpu;
  if (result == NVML_SUCCESS && !cpus) return NVML_ERROR_NOT_SUPPORTED;
  memset(mask, 0, words * sizeof *mask);
  for (int i = 0; (cpu = json_element(cpus, i)); i++) {
    unsigned long long number = json_number(cpu, 0);
    if (number / 64 < words) mask[number / 64] |= 1UL << number % 64;
  }
  return result;
}

nvmlReturn_t nvmlDeviceGetCpuAffinity(nvmlDevice_t device, unsigned int words, unsigned long *mask) {
  LOCKED(affinity(device, words, mask));
}

nvmlReturn_t nvmlDeviceGetNumaNodeId(nvmlDevice_t device, unsigned int *node) {
  LOCKED(small_number(device, "numa_node", node));
}

/* ---- MIG ---- */

static nvmlReturn_t mig_mode(nvmlDevice_t device, unsigned int *current, unsigned int *pending) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, "mig", &sim);
  const char *mig = result == NVML_SUCCESS ? json_member(sim.gpu, "mig") : NULL;
  if (result == NVML_SUCCESS && !mig) return NVML_ERROR_NOT_SUPPORTED;
  const char *now = json_member(mig, "enabled"), *later = json_member(mig, "pending");
  *current = json_true(now) ? NVML_DEVICE_MIG_ENABLE : NVML_DEVICE_MIG_DISABLE;
  *pending = json_true(later ? later : now) ? NVML_DEVICE_MIG_ENABLE : NVML_DEVICE_MIG_DISABLE;
  return result;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending) {
  LOCKED(mig_mode(device, current, pending));
}

static nvmlReturn_t most_slices(nvmlDevice_t device, unsigned int *count) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, "mig", &sim);
  *count = result == NVML_SUCCESS && json_member(sim.gpu, "mig") ? MAX_SLICES : 0;
  return result;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count) {
  LOCKED(most_slices(device, count));
}

static nvmlReturn_t slice_handle(nvmlDevice_t device, unsigned int index, nvmlDevice_t *slice) {
  Sim sim, found;
  nvmlReturn_t result = sim_find_field(device, "mig", &sim);
  if (result != NVML_SUCCESS) return result;
  if (sim.slice >= 0 || index >= MAX_SLICES) return NVML_ERROR_INVALID_ARGUMENT;
  *slice = &sim_handles[sim.index][1 + index];
  return sim_find(*slice, &found) == NVML_SUCCESS ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *slice) {
  LOCKED(slice_handle(device, index, slice));
}

static nvmlReturn_t parent(nvmlDevice_t slice, nvmlDevice_t *device) {
  Sim sim;
  nvmlReturn_t result = sim_find(slice, &sim);
  if (result != NVML_SUCCESS || sim.slice < 0) return NVML_ERROR_INVALID_ARGUMENT;
  *device = &sim_handles[sim.index][0];
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t slice, nvmlDevice_t *device) {
  LOCKED(parent(slice, device));
}

static nvmlReturn_t is_slice(nvmlDevice_t device, unsigned int *answer) {
  Sim sim;
  nvmlReturn_t result = sim_find(device, &sim);
  if (result == NVML_SUCCESS) *answer = sim.slice >= 0;
  return result;
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *answer) { LOCKED(is_slice(device, answer)); }

nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int *id) {
  LOCKED(small_number(device, "gpu_instance_id", id));
}

nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned int *id) {
  LOCKED(small_number(device, "compute_instance_id", id));
}

static nvmlReturn_t attributes(nvmlDevice_t device, nvmlDeviceAttributes_t *answer) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, "attributes", &sim);
  if (result != NVML_SUCCESS) return result;
  if (sim.slice < 0) return NVML_ERROR_NOT_SUPPORTED;
  memset(answer, 0, sizeof *answer);
  answer->memorySizeMB = json_number(json_member(sim.value, "memory_total_bytes"), 0) >> 20;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *answer) {
  LOCKED(attributes(device, answer));
}
