// From a device's name to its driver: the cpu device is built in, the others are plugins beside
// libgatun.so.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <mutex>
#include <string>

#include "core/device.h"

namespace gatun {

namespace {

// The folder that libgatun.so was loaded from, with its slash; empty if that cannot be told.
std::string library_folder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&gatun_abi_version), &info) == 0 ||
      info.dli_fname == nullptr)
    return "";
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1);
}

bool is_file(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) return false;
  std::fclose(file);
  return true;
}

// Loads libgatun_<kind>.so once for the process; it is never unloaded.
const Plugin* load_plugin(const char* kind) {
  static std::mutex& mutex = *new std::mutex;
  std::lock_guard lock(mutex);
  const std::string file = std::string("libgatun_") + kind + ".so";
  const std::string path = library_folder() + file;
  if (!is_file(path))
    fail(GATUN_UNAVAILABLE, "%s: this build has no %s (looked for %s)", kind, file.c_str(),
         path.c_str());
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    fail(GATUN_UNAVAILABLE, "%s: %s does not load: %s", kind, file.c_str(), dlerror());
  auto entry = reinterpret_cast<const Plugin* (*)()>(dlsym(library, "gatun_plugin"));
  if (entry == nullptr)
    fail(GATUN_UNAVAILABLE, "%s: %s is not a plugin of this library (no gatun_plugin in it)", kind,
         path.c_str());
  const Plugin* plugin = entry();
  if (plugin == nullptr || plugin->abi != kPluginAbi || plugin->fingerprint != plugin_fingerprint())
    fail(GATUN_UNAVAILABLE,
         "%s: %s is of another build than libgatun.so; install both from one build", kind,
         path.c_str());
  return plugin;
}

void require_cuda_driver() {
  void* driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (driver == nullptr)
    fail(GATUN_UNAVAILABLE,
         "cuda: no GPU here (libcuda.so.1 not found); use cpu, or install the NVIDIA driver");
  dlclose(driver);
}

// "cuda" or "cuda:7".
bool names(const char* name, const char* kind) {
  const size_t length = std::strlen(kind);
  if (std::strncmp(name, kind, length) != 0) return false;
  const char* rest = name + length;
  if (*rest == 0) return true;
  if (*rest++ != ':' || *rest == 0) return false;
  for (int digits = 0; *rest != 0; ++rest, ++digits)
    if (*rest < '0' || *rest > '9' || digits == 3) return false;
  return true;
}

}  // namespace

Driver* open_driver(const char* name, const gatun_device_options& options, Memory& memory) {
  Driver* driver = nullptr;
  Failure failure;
  gatun_status status;
  if (std::strcmp(name, "cpu") == 0) {
    status = cpu::open(options, memory, &driver, failure);
  } else if (names(name, "cuda")) {
    require_cuda_driver();
    status = load_plugin("cuda")->open(name, options, memory, &driver, failure);
  } else if (names(name, "sim")) {
    status = load_plugin("sim")->open(name, options, memory, &driver, failure);
  } else {
    fail(GATUN_UNAVAILABLE, "there is no device \"%.64s\"; there are cpu, cuda, cuda:N and sim",
         name);
  }
  check(status, failure);
  return driver;
}

}  // namespace gatun
