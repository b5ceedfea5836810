// A tool that NVTX loads by NVTX_INJECTION64_PATH: it writes every range that is pushed or popped to the file that
// GPUEXEC_NVTX_LOG names, a line each: process, "push" or "pop", domain, message, payload.
#define NVTX_NO_IMPL
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nvToolsExt.h"

#define MAX 64
static char *domains[MAX];
static char *strings[MAX];
static int domain_count, string_count;

static void note(const char *what, nvtxDomainHandle_t domain, const char *message, long long payload) {
    const char *path = getenv("GPUEXEC_NVTX_LOG");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file == NULL) return;
    fprintf(file, "%d\t%s\t%s\t%s\t%lld\n", (int)getpid(), what, domain ? (char *)domain : "", message, payload);
    fclose(file);
}

static nvtxDomainHandle_t create_domain(const char *name) {
    if (domain_count == MAX) abort();
    domains[domain_count] = strdup(name);
    return (nvtxDomainHandle_t)domains[domain_count++];
}

static nvtxStringHandle_t register_string(nvtxDomainHandle_t domain, const char *text) {
    (void)domain;
    if (string_count == MAX) abort();
    strings[string_count] = strdup(text);
    return (nvtxStringHandle_t)strings[string_count++];
}

static int push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t *event) {
    const char *message = "";
    if (event->messageType == NVTX_MESSAGE_TYPE_ASCII) message = event->message.ascii;
    if (event->messageType == NVTX_MESSAGE_TYPE_REGISTERED) message = (const char *)event->message.registered;
    note("push", domain, message, event->payloadType == NVTX_PAYLOAD_TYPE_INT64 ? event->payload.llValue : -1);
    return 0;
}

static int pop(nvtxDomainHandle_t domain) {
    note("pop", domain, "", -1);
    return 0;
}

__attribute__((visibility("default"))) int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_export_table) {
    const NvtxExportTableCallbacks *callbacks = get_export_table(NVTX_ETID_CALLBACKS);
    NvtxFunctionTable table = NULL;
    unsigned int size = 0;
    if (callbacks == NULL || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size)) return 0;
    if (size <= NVTX_CBID_CORE2_DomainCreateA) return 0;
    *table[NVTX_CBID_CORE2_DomainCreateA] = (NvtxFunctionPointer)create_domain;
    *table[NVTX_CBID_CORE2_DomainRegisterStringA] = (NvtxFunctionPointer)register_string;
    *table[NVTX_CBID_CORE2_DomainRangePushEx] = (NvtxFunctionPointer)push;
    *table[NVTX_CBID_CORE2_DomainRangePop] = (NvtxFunctionPointer)pop;
    return 1;
}
