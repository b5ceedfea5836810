/* How GPUs are linked, and the events they report. */
#include "node.h"

#include <time.h>

static const struct {
  const char *name;
  nvmlGpuTopologyLevel_t level;
} LEVELS[] = {
    {"same_board", NVML_TOPOLOGY_INTERNAL}, {"single_switch", NVML_TOPOLOGY_SINGLE},
    {"multiple_switches", NVML_TOPOLOGY_MULTIPLE}, {"host_bridge", NVML_TOPOLOGY_HOSTBRIDGE},
    {"numa_node", NVML_TOPOLOGY_NODE}, {"system", NVML_TOPOLOGY_SYSTEM},
};

static nvmlGpuTopologyLevel_t level_named(const char *value) {
  for (size_t i = 0; i < sizeof LEVELS / sizeof *LEVELS; i++)
    if (json_equals(value, LEVELS[i].name)) return LEVELS[i].level;
  return NVML_TOPOLOGY_SYSTEM;
}

/* "topology": {"default": LEVEL, "pairs": [[a, b, LEVEL], …]} */
static nvmlGpuTopologyLevel_t level_between(int a, int b) {
  const char *topology = json_member(sim_node(), "topology"), *pair;
  const char *pairs = json_member(topology, "pairs");
  for (int i = 0; (pair = json_element(pairs, i)); i++) {
    int first = (int)json_number(json_element(pair, 0), 0), second = (int)json_number(json_element(pair, 1), 0);
    if ((first == a && second == b) || (first == b && second == a)) return level_named(json_element(pair, 2));
  }
  return level_named(json_member(topology, "default"));
}

static nvmlReturn_t ancestor(nvmlDevice_t first, nvmlDevice_t second, nvmlGpuTopologyLevel_t *level) {
  Sim a, b;
  if (sim_find(first, &a) != NVML_SUCCESS || sim_find(second, &b) != NVML_SUCCESS) return NVML_ERROR_INVALID_ARGUMENT;
  if (!json_member(sim_node(), "topology")) return NVML_ERROR_NOT_SUPPORTED;
  *level = level_between(a.index, b.index);
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t first, nvmlDevice_t second,
                                                 nvmlGpuTopologyLevel_t *level) {
  LOCKED(ancestor(first, second, level));
}

/* Unlike the process queries, a query for the count alone succeeds. */
static nvmlReturn_t nearest(nvmlDevice_t device, nvmlGpuTopologyLevel_t level, unsigned int *count,
                            nvmlDevice_t *devices) {
  Sim sim;
  nvmlReturn_t result = sim_find(device, &sim);
  if (result != NVML_SUCCESS) return result;
  int gpus = json_length(json_member(sim_node(), "gpus"));
  unsigned int found = 0, room = *count;
  for (int i = 0; i < gpus && i < MAX_GPUS; i++) {
    if (i == sim.index || level_between(sim.index, i) > level) continue;
    if (devices && found < room) devices[found] = &sim_handles[i][0];
    found++;
  }
  *count = found;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTopologyNearestGpus(nvmlDevice_t device, nvmlGpuTopologyLevel_t level, unsigned int *count,
                                              nvmlDevice_t *devices) {
  LOCKED(nearest(device, level, count, devices));
}

/* "nvlinks" of a GPU: for each link, in order, the index of the peer or "switch". */
static const char *nvlink(const Sim *sim, int link) { return json_element(json_member(sim->gpu, "nvlinks"), link); }

static int reaches(const Sim *from, const Sim *to) {
  const char *link;
  for (int i = 0; (link = nvlink(from, i)); i++) {
    if (*link == '"' ? nvlink(to, 0) != NULL && *nvlink(to, 0) == '"' : (int)json_number(link, 0) == to->index)
      return 1;
  }
  return 0;
}

static nvmlReturn_t p2p(nvmlDevice_t first, nvmlDevice_t second, nvmlGpuP2PCapsIndex_t what,
                        nvmlGpuP2PStatus_t *status) {
  Sim a, b;
  nvmlReturn_t result = sim_find_field(first, "p2p", &a);
  if (result == NVML_SUCCESS) result = sim_find_field(second, "p2p", &b);
  if (result != NVML_SUCCESS) return result;
  int linked = what == NVML_P2P_CAPS_INDEX_NVLINK && reaches(&a, &b);
  *status = linked ? NVML_P2P_STATUS_OK : NVML_P2P_STATUS_NOT_SUPPORTED;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t first, nvmlDevice_t second, nvmlGpuP2PCapsIndex_t what,
                                    nvmlGpuP2PStatus_t *status) {
  LOCKED(p2p(first, second, what, status));
}

static nvmlReturn_t link_state(nvmlDevice_t device, unsigned int link, nvmlEnableState_t *state) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, "nvlinks", &sim);
  if (result != NVML_SUCCESS) return result;
  if (!nvlink(&sim, (int)link)) return NVML_ERROR_NOT_SUPPORTED;
  *state = NVML_FEATURE_ENABLED;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link, nvmlEnableState_t *state) {
  LOCKED(link_state(device, link, state));
}

static nvmlReturn_t link_remote(nvmlDevice_t device, unsigned int link, nvmlPciInfo_t *pci) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, "nvlinks", &sim);
  const char *peer = result == NVML_SUCCESS ? nvlink(&sim, (int)link) : NULL;
  if (result != NVML_SUCCESS || !peer) return result == NVML_SUCCESS ? NVML_ERROR_NOT_SUPPORTED : result;
  memset(pci, 0, sizeof *pci);
  if (*peer == '"') {
    strcpy(pci->busId, "FFFFFFFF:FF:FF.0");
    return NVML_SUCCESS;
  }
  const char *gpu = json_element(json_member(sim_node(), "gpus"), (int)json_number(peer, 0));
  json_copy(json_member(gpu, "pci_bus_id"), pci->busId, sizeof pci->busId);
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned int link, nvmlPciInfo_t *pci) {
  LOCKED(link_remote(device, link, pci));
}

/* ---- events: the "xids" of a GPU in the file, except those that were there at registration ----
 *
 * An XID is a number, or [number, GPU instance] if it concerns one MIG slice. While a registered GPU is lost,
 * every wait returns the remaining events and then fails at once. "event_wait_error" makes every wait fail.
 */

struct nvmlEventSet_st {
  int registered[MAX_GPUS];
  int seen[MAX_GPUS];
};

static int count_xids(int gpu) {
  return json_length(json_member(sim_gpu(gpu), "xids"));
}

static nvmlReturn_t create(nvmlEventSet_t *set) {
  *set = calloc(1, sizeof **set);
  return *set ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) { LOCKED(create(set)); }

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) { LOCKED((free(set), NVML_SUCCESS)); }

static nvmlReturn_t event_types(nvmlDevice_t device, unsigned long long *types) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, "events", &sim);
  if (result == NVML_SUCCESS) *types = nvmlEventTypeXidCriticalError;
  return result;
}

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types) {
  LOCKED(event_types(device, types));
}

static nvmlReturn_t register_events(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set) {
  Sim sim;
  nvmlReturn_t result = sim_find_field(device, "events", &sim);
  if (result != NVML_SUCCESS) return result;
  if (types & ~nvmlEventTypeXidCriticalError) return NVML_ERROR_NOT_SUPPORTED;
  set->registered[sim.index] = 1;
  set->seen[sim.index] = count_xids(sim.index);
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set) {
  LOCKED(register_events(device, types, set));
}

static nvmlReturn_t next_event(nvmlEventSet_t set, nvmlEventData_t *data) {
  for (int gpu = 0; gpu < MAX_GPUS; gpu++) {
    if (!set->registered[gpu] || set->seen[gpu] >= count_xids(gpu)) continue;
    const char *xids = json_member(sim_gpu(gpu), "xids");
    const char *xid = json_element(xids, set->seen[gpu]++), *pair = *xid == '[' ? xid : NULL;
    memset(data, 0, sizeof *data);
    data->device = &sim_handles[gpu][0];
    data->eventType = nvmlEventTypeXidCriticalError;
    data->eventData = json_number(pair ? json_element(pair, 0) : xid, 0);
    data->gpuInstanceId = (unsigned int)json_number(json_element(pair, 1), 0xFFFFFFFF);
    data->computeInstanceId = pair ? 0 : 0xFFFFFFFF;
    return NVML_SUCCESS;
  }
  for (int gpu = 0; gpu < MAX_GPUS; gpu++)
    if (set->registered[gpu] && json_true(json_member(sim_gpu(gpu), "lost")))
      return NVML_ERROR_GPU_IS_LOST;
  return (nvmlReturn_t)json_number(json_member(sim_node(), "event_wait_error"), NVML_ERROR_TIMEOUT);
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms) {
  const struct timespec pause = {0, 5 * 1000 * 1000};
  for (unsigned int waited = 0;; waited += 5) {
    pthread_mutex_lock(&sim_lock);
    sim_enter(__func__);
    nvmlReturn_t result = next_event(set, data);
    pthread_mutex_unlock(&sim_lock);
    if (result != NVML_ERROR_TIMEOUT || waited >= timeout_ms) return result;
    nanosleep(&pause, NULL);
  }
}
