/* How a GPU is: persistence mode, ECC mode, PCIe link. Its counters are "fields", in device.c. */
#include "node.h"

/* Return a member of an object of the GPU, such as "width" of "pcie_link"; "not supported" if it is not there. */
static nvmlReturn_t member(nvmlDevice_t device, const char *object, const char *name, unsigned int *value) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, object, &sim);
  if (result != NVML_SUCCESS) return result;
  const char *found = json_member(json_member(sim.gpu, object), name);
  if (!found) return NVML_ERROR_NOT_SUPPORTED;
  *value = *found == 't' ? 1 : (unsigned int)json_number(found, 0);
  return NVML_SUCCESS;
}

static nvmlReturn_t persistence(nvmlDevice_t device, nvmlEnableState_t *mode) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, "persistence_mode", &sim);
  const char *found = result == NVML_SUCCESS ? json_member(sim.gpu, "persistence_mode") : NULL;
  if (result == NVML_SUCCESS && !found) return NVML_ERROR_NOT_SUPPORTED;
  *mode = json_true(found) ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED;
  return result;
}

nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, nvmlEnableState_t *mode) {
  LOCKED(persistence(device, mode));
}

/* "ecc": {"current": …, "pending": …}; without "pending", no change waits. */
static nvmlReturn_t ecc(nvmlDevice_t device, nvmlEnableState_t *current, nvmlEnableState_t *pending) {
  unsigned int now = 0, later = 0;
  nvmlReturn_t result = member(device, "ecc", "current", &now);
  if (result != NVML_SUCCESS) return result;
  if (member(device, "ecc", "pending", &later) != NVML_SUCCESS) later = now;
  *current = now ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED;
  *pending = later ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t *current, nvmlEnableState_t *pending) {
  LOCKED(ecc(device, current, pending));
}

/* "pcie_link": {"width": lanes, "max_width": …, "generation": …, "max_generation": …} */
nvmlReturn_t nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t device, unsigned int *width) {
  LOCKED(member(device, "pcie_link", "width", width));
}

nvmlReturn_t nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t device, unsigned int *width) {
  LOCKED(member(device, "pcie_link", "max_width", width));
}

nvmlReturn_t nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice_t device, unsigned int *generation) {
  LOCKED(member(device, "pcie_link", "generation", generation));
}

nvmlReturn_t nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t device, unsigned int *generation) {
  LOCKED(member(device, "pcie_link", "max_generation", generation));
}
