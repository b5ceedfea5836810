/* Reads values from a JSON text in place. A "cursor" points at a value; NULL means that there is none.
 *
 * The text comes from Python's json module, so it is well formed and is not validated here.
 */
#ifndef GPUEXEC_NVML_SIM_JSON_H
#define GPUEXEC_NVML_SIM_JSON_H

#include <stdlib.h>
#include <string.h>

static const char *json_blank(const char *p) {
  while (*p && strchr(" \t\r\n,:", *p)) p++;
  return p;
}

static const char *json_skip_string(const char *p) {
  for (p++; *p && *p != '"'; p++)
    if (*p == '\\' && p[1]) p++;
  return *p ? p + 1 : p;
}

/* Return a pointer to the text after the value at p. */
static const char *json_skip(const char *p) {
  if (*p == '"') return json_skip_string(p);
  if (*p != '{' && *p != '[') return p + strcspn(p, ",]} \t\r\n");
  for (int depth = 0; *p;) {
    if (*p == '"') {
      p = json_skip_string(p);
      continue;
    }
    if (*p == '{' || *p == '[') depth++;
    if ((*p == '}' || *p == ']') && --depth == 0) return p + 1;
    p++;
  }
  return p;
}

static const char *json_member(const char *object, const char *key) {
  if (!object || *object != '{') return NULL;
  size_t length = strlen(key);
  for (const char *p = json_blank(object + 1); *p == '"';) {
    const char *end = json_skip_string(p);
    const char *value = json_blank(end);
    if ((size_t)(end - p) == length + 2 && !strncmp(p + 1, key, length)) return strncmp(value, "null", 4) ? value : NULL;
    p = json_blank(json_skip(value));
  }
  return NULL;
}

static const char *json_element(const char *array, int index) {
  if (!array || *array != '[') return NULL;
  const char *p = json_blank(array + 1);
  while (*p && *p != ']' && index-- > 0) p = json_blank(json_skip(p));
  return *p && *p != ']' ? p : NULL;
}

static int json_length(const char *array) {
  int count = 0;
  while (json_element(array, count)) count++;
  return count;
}

static int json_true(const char *value) { return value && *value == 't'; }

static unsigned long long json_number(const char *value, unsigned long long otherwise) {
  return value ? strtoull(value, NULL, 10) : otherwise;
}

static int json_equals(const char *value, const char *text) {
  size_t length = strlen(text);
  return value && *value == '"' && !strncmp(value + 1, text, length) && value[length + 1] == '"';
}

/* Copy a string value, truncated to size. */
static void json_copy(const char *value, char *target, size_t size) {
  size_t length = 0;
  if (value && *value == '"') {
    const char *end = json_skip_string(value) - 1;
    length = (size_t)(end - value - 1);
    if (length >= size) length = size - 1;
    memcpy(target, value + 1, length);
  }
  target[length] = 0;
}

#endif
