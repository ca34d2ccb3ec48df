// A stand-in for libnvrtc.so in tests: its cubin of any text is the file that CUCPU_CUBIN names.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#define API extern "C" __attribute__((visibility("default"))) int
using std::string;
enum { OK = 0, COMPILATION = 6 };

struct Program {
  string log, cubin;
  bool has_header;
};

API nvrtcGetNumSupportedArchs(int* n) { return *n = 2, OK; }
API nvrtcGetSupportedArchs(int* archs) { return archs[0] = 87, archs[1] = 110, OK; }
API nvrtcCreateProgram(Program** p, const char* text, const char*, int n, const char* const* headers, const char* const* names) {
  bool has = n == 1 && !strcmp(names[0], "gpu.h") && strstr(headers[0], "float_of_half") && strstr(text, "__global__");
  return *p = new Program{"", "", has}, OK;
}
API nvrtcCompileProgram(Program* p, int n, const char* const* options) {
  string all;
  for (int i = 0; i < n; i++) all += string(options[i]) + " ";
  if (!p->has_header || all.find("--fmad=false") == string::npos) return p->log = "error: " + all, COMPILATION;
  FILE* f = fopen(getenv("CUCPU_CUBIN") ? getenv("CUCPU_CUBIN") : "", "r");
  if (!f) return p->log = "error: CUCPU_CUBIN names no file", COMPILATION;
  char part[4096];
  for (size_t got; (got = fread(part, 1, sizeof part, f)) > 0;) p->cubin.append(part, got);
  return fclose(f), OK;
}
API nvrtcGetCUBINSize(Program* p, size_t* n) { return *n = p->cubin.size(), OK; }
API nvrtcGetCUBIN(Program* p, char* to) { return memcpy(to, p->cubin.data(), p->cubin.size()), OK; }
API nvrtcGetProgramLogSize(Program* p, size_t* n) { return *n = p->log.size() + 1, OK; }
API nvrtcGetProgramLog(Program* p, char* to) { return memcpy(to, p->log.c_str(), p->log.size() + 1), OK; }
API nvrtcDestroyProgram(Program** p) { return delete *p, *p = nullptr, OK; }
