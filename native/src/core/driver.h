// What a kind of device implements: the cpu device in cpu/, the cuda device in the plugin
// libgatun_cuda.so. Handles, checks, names and sentences are the core's (core/device.h).
//
// A plugin is another shared object with a C++ runtime of its own, so no exception crosses this
// interface: every method returns a status and leaves the sentence of anything but GATUN_OK in
// `failure`. Methods may be called from any thread at any time, except that close() is the last
// call. A plugin compiles core/error.cpp and core/memory.cpp into itself.
#pragma once

#include <cstdint>
#include <cstdio>
#include <exception>
#include <new>

#include "core/error.h"
#include "core/memory.h"
#include "core/op.h"
#include "gatun.h"

namespace gatun {

struct Failure {
  gatun_status status = GATUN_OK;
  char message[kMaxMessage] = "";
};

// Runs the body of a Driver's method; what it throws becomes the method's result.
template <typename Body>
gatun_status guarded(Failure& failure, Body&& body) noexcept {
  try {
    body();
    return GATUN_OK;
  } catch (const Error& e) {
    failure.status = e.status;
    std::snprintf(failure.message, sizeof failure.message, "%s", e.what());
  } catch (const std::bad_alloc&) {
    failure.status = GATUN_OUT_OF_MEMORY;
    std::snprintf(failure.message, sizeof failure.message, "the host has no memory left");
  } catch (const std::exception& e) {
    failure.status = GATUN_INTERNAL;
    std::snprintf(failure.message, sizeof failure.message, "%s", e.what());
  } catch (...) {
    failure.status = GATUN_INTERNAL;
    std::snprintf(failure.message, sizeof failure.message, "an unknown exception");
  }
  return failure.status;
}

class Driver {
 public:
  // Waits for all work, frees everything, deletes the driver. Streams, events and memory have been
  // given back before.
  virtual void close() noexcept = 0;

  // Fills threads, simd, sm_count, name and description; the memory figures are the core's.
  virtual void describe(gatun_device_info& info) noexcept = 0;

  // The ops that are there; stays valid until close().
  virtual const Backend& backend() noexcept = 0;

  // ---- streams and events: opaque to the core, null is not a value ----

  virtual gatun_status create_stream(void** stream, Failure& failure) noexcept = 0;
  virtual void destroy_stream(void* stream) noexcept = 0;  // waits for its work
  // Waits for the stream (null: for all work), then reports the first pending fault, once.
  virtual gatun_status wait(void* stream, Failure& failure) noexcept = 0;
  // Waits for all work and leaves a pending fault pending.
  virtual void drain() noexcept = 0;

  virtual gatun_status create_event(void** event, Failure& failure) noexcept = 0;
  virtual void destroy_event(void* event) noexcept = 0;
  virtual gatun_status record(void* event, void* stream, Failure& failure) noexcept = 0;
  virtual gatun_status stream_wait(void* stream, void* event, Failure& failure) noexcept = 0;
  virtual gatun_status event_wait(void* event, Failure& failure) noexcept = 0;
  virtual gatun_status elapsed(void* start, void* end, double* millis,
                               Failure& failure) noexcept = 0;

  // ---- memory ----

  // bytes > 0, address aligned to 64; usable by later work of the stream, or where that is null of
  // any stream. Accounts for it in the
  // device's Memory (take, give). On GATUN_OUT_OF_MEMORY the core writes the sentence.
  virtual gatun_status allocate(void* stream, int64_t bytes, gatun_purpose purpose, void** address,
                                Failure& failure) noexcept = 0;
  // The memory may be reused by work enqueued from now on. `stream` is that of allocate, or null
  // if it was null there or was destroyed since: then all work on the memory is done.
  virtual void release(void* stream, void* address, int64_t bytes,
                       gatun_purpose purpose) noexcept = 0;
  // Gives cached memory back to the system; called after drain().
  virtual gatun_status trim(Failure& failure) noexcept = 0;
  // Whether ops may use this foreign memory; the sentence says why not.
  virtual gatun_status wrap(void* address, int64_t bytes, Failure& failure) noexcept = 0;

  // Stream-ordered; `source` may be reused when it returns.
  virtual gatun_status write(void* stream, void* to, const void* source, int64_t bytes,
                             Failure& failure) noexcept = 0;
  // Waits for the stream, copies, then reports the first pending fault.
  virtual gatun_status read(void* stream, void* destination, const void* from, int64_t bytes,
                            Failure& failure) noexcept = 0;

  // ---- ops ----

  // Enqueues, or runs, type_of(op).run(backend(), context, args). Moves from *args if it keeps
  // them; the caller destroys them. The op is in backend().
  virtual gatun_status submit(void* stream, Op op, void* args, Failure& failure) noexcept = 0;

  // ---- graphs: opaque to the core, null is not a value ----

  // From here on submit() remembers the stream's ops. The core refuses everything else that the
  // stream could do, and allocates with a null stream.
  virtual gatun_status begin_capture(void* stream, Failure& failure) noexcept = 0;
  // The stream runs ops again, also after a failure.
  virtual gatun_status end_capture(void* stream, void** graph, Failure& failure) noexcept = 0;
  virtual gatun_status launch(void* stream, void* graph, Failure& failure) noexcept = 0;
  virtual void destroy_graph(void* graph) noexcept = 0;  // waits for all work

  // ---- profile: the device time of each op since profile(true); calls are counted by the core
  // ----

  virtual void profile(bool on) noexcept = 0;
  virtual void profile_nanos(int64_t nanos[kOps]) noexcept = 0;  // after a wait for all work

 protected:
  ~Driver() = default;
};

// ---- what a plugin exports: extern "C" const gatun::Plugin* gatun_plugin() ----

struct Plugin {
  int32_t abi;           // kPluginAbi
  uint64_t fingerprint;  // plugin_fingerprint(): plugin and library are of one build
  // Opens device `name` ("cuda", "cuda:1"). `memory.budget` is what the options say or 0; the
  // plugin sets it then. `memory` outlives the driver.
  gatun_status (*open)(const char* name, const gatun_device_options& options, Memory& memory,
                       Driver** driver, Failure& failure) noexcept;
};

constexpr int32_t kPluginAbi = 2;

// Changes with the list of ops and the layout of what crosses.
constexpr uint64_t plugin_fingerprint() {
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  auto add = [&hash](uint64_t value) { hash = (hash ^ value) * 1099511628211u; };
  add(GATUN_ABI_VERSION);
  add(sizeof(Memory));
  add(sizeof(Failure));
  add(sizeof(gatun_device_info));
#define OP(name, Args)                                                      \
  for (const char* c = #name; *c != 0; ++c) add(static_cast<uint64_t>(*c)); \
  add(sizeof(Args));
#include "ops/ops.def"
#undef OP
  return hash;
}

}  // namespace gatun
