// The exported functions of gatun.h that are not ops.
#include <dnnl.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>

#include "core/device.h"
#include "core/guard.h"
#include "core/handles.h"

namespace gatun {

namespace {

thread_local char last_error[kMaxMessage];

}  // namespace

gatun_status set_error(gatun_status status, const char* message) noexcept {
  std::snprintf(last_error, sizeof last_error, "%s",
                message != nullptr && *message != 0 ? message : "no reason was given");
  return status;
}

namespace {

Device& device_of(const Pin& pin, const char* function, gatun_device handle) {
  if (!pin) devices().explain(handle, function, "device");
  return *pin.object<Device>();
}

Stream& stream_of(const Pin& pin, const char* function, gatun_stream handle) {
  if (!pin) streams().explain(handle, function, "stream");
  return *pin.object<Stream>();
}

Event& event_of(const Pin& pin, const char* function, gatun_event handle,
                const char* argument = "event") {
  if (!pin) events().explain(handle, function, argument);
  return *pin.object<Event>();
}

Graph& graph_of(const Pin& pin, const char* function, gatun_graph handle) {
  if (!pin) graphs().explain(handle, function, "graph");
  return *pin.object<Graph>();
}

// What only makes sense where work runs.
Stream& running(const char* function, Stream& stream) {
  if (stream.capture.load(std::memory_order_acquire) != nullptr)
    fail(GATUN_INVALID_ARGUMENT, "%s: the stream's ops are being captured: end the graph first",
         function);
  return stream;
}

Buffer buffer_of(const char* function, gatun_buffer handle) {
  HandleTable::Words words;
  if (!buffers().read(handle, &words)) buffers().explain(handle, function, "buffer");
  return Buffer::unpack(words);
}

template <typename T>
T* aligned(const char* function, const char* argument, T* pointer) {
  if (pointer == nullptr) fail(GATUN_INVALID_ARGUMENT, "%s: %s is null", function, argument);
  if (reinterpret_cast<uintptr_t>(pointer) % alignof(T) != 0)
    fail(GATUN_INVALID_ARGUMENT, "%s: %s %p is not aligned to %zu bytes", function, argument,
         static_cast<const void*>(pointer), alignof(T));
  return pointer;
}

template <typename T>
void check_struct_size(const char* function, const char* argument, const T& value) {
  if (value.struct_size != sizeof(T))
    fail(GATUN_INVALID_ARGUMENT,
         "%s: %s->struct_size is %u, this library's is %zu: caller and library were built with "
         "different gatun.h",
         function, argument, value.struct_size, sizeof(T));
}

bool on(const Device* device, const HandleTable::Slot& slot) {
  return slot.words[0].load(std::memory_order_relaxed) == reinterpret_cast<uint64_t>(device);
}

uint64_t open_handle(HandleTable& table, Device* device, void* object) {
  return table.open({{reinterpret_cast<uint64_t>(device), reinterpret_cast<uint64_t>(object), 0, 0,
                      0, device->handle}});
}

// Keeps the device of a handle open while that handle is closed and given back.
Pin pin_device(HandleTable& table, uint64_t handle, const char* function, const char* argument) {
  HandleTable::Words words;
  if (!table.read(handle, &words)) table.explain(handle, function, argument);
  Pin pin(devices(), words.word[5]);
  if (!pin) fail(GATUN_INVALID_HANDLE, "%s: the device of this %s was closed", function, argument);
  return pin;
}

// Ends a handle whose object the table holds; null if it was not live.
template <typename T>
T* close_handle(HandleTable& table, uint64_t handle) {
  HandleTable::Words words;
  return table.close(handle, &words) ? reinterpret_cast<T*>(words.word[1]) : nullptr;
}

void destroy(Stream* stream) {
  stream->device->driver->destroy_stream(stream->native);
  if (Capture* capture = stream->capture.load()) capture->drop();
  delete stream;
}

void destroy(Event* event) {
  event->device->driver->destroy_event(event->native);
  delete event;
}

void destroy(Graph* graph) {
  graph->device->driver->destroy_graph(graph->native);
  graph->capture->drop();
  delete graph;
}

// Gives back the memory of a buffer whose handle is closed.
void give_back(const Buffer& buffer) {
  Device& device = *buffer.device;
  device.buffers.fetch_sub(1, std::memory_order_relaxed);
  if (buffer.wrapped) {
    // A call that looked the buffer up before its handle died may be about to enqueue.
    streams().wait_for_pins([&](const HandleTable::Slot& slot) { return on(&device, slot); });
    device.driver->drain();
  } else if (buffer.capture != nullptr) {
    buffer.capture->give(buffer.address);
  } else if (buffer.bytes > 0) {
    const Pin pin(streams(), buffer.stream);
    device.driver->release(pin ? pin.object<Stream>()->native : nullptr, buffer.address,
                           buffer.bytes, static_cast<gatun_purpose>(buffer.purpose));
  }
}

void check_options(const gatun_device_options& options) {
  const char* function = "device_open";
  check_struct_size(function, "options", options);
  if (options.threads < 0 || options.threads > 1024)
    fail(GATUN_INVALID_ARGUMENT, "%s: options->threads is %d, 0 (default) to 1024 are possible",
         function, options.threads);
  if (options.simd < 0 || options.simd > 3)
    fail(GATUN_INVALID_ARGUMENT,
         "%s: options->simd is %d; it is 0 (the best there is), 1 (plain), 2 (avx2) or 3 (avx512)",
         function, options.simd);
  if (options.reserved != 0)
    fail(GATUN_INVALID_ARGUMENT, "%s: options->reserved is %d, it must be 0", function,
         options.reserved);
  if (options.memory_budget_bytes < 0)
    fail(GATUN_INVALID_ARGUMENT, "%s: options->memory_budget_bytes is %lld, below 0", function,
         static_cast<long long>(options.memory_budget_bytes));
}

// The range [offset, offset + bytes) of a buffer.
char* range_of(const char* function, const Buffer& buffer, int64_t offset, int64_t bytes) {
  if (offset < 0 || bytes < 0)
    fail(GATUN_INVALID_ARGUMENT,
         "%s: offset_bytes is %lld and bytes is %lld, neither may be below 0", function,
         static_cast<long long>(offset), static_cast<long long>(bytes));
  if (bytes > buffer.bytes || offset > buffer.bytes - bytes)
    fail(GATUN_INVALID_ARGUMENT, "%s: %lld bytes from offset %lld do not fit in a buffer of %lld",
         function, static_cast<long long>(bytes), static_cast<long long>(offset),
         static_cast<long long>(buffer.bytes));
  return buffer.address + offset;
}

void check_same_device(const char* function, const char* what, const Device* has,
                       const Device* wanted) {
  if (has != wanted)
    fail(GATUN_INVALID_HANDLE, "%s: the %s belongs to another device than the stream", function,
         what);
}

}  // namespace

}  // namespace gatun

using namespace gatun;

extern "C" {

int32_t gatun_abi_version(void) { return GATUN_ABI_VERSION; }

const char* gatun_version(void) {
  struct Text {
    char text[64];
    Text() {
      const dnnl_version_t* dnnl = dnnl_version();
      std::snprintf(text, sizeof text, "%s linux-x86_64 oneDNN %d.%d", GATUN_VERSION, dnnl->major,
                    dnnl->minor);
    }
  };
  static const Text& version = *new Text;
  return version.text;
}

void gatun_nop(void) {}

const char* gatun_last_error(void) { return last_error; }

// ---- device ----

gatun_status gatun_device_open(const char* name, const gatun_device_options* options,
                               gatun_device* handle) {
  return guard([&] {
    const char* function = "device_open";
    aligned(function, "device", handle);
    if (name == nullptr) fail(GATUN_INVALID_ARGUMENT, "%s: name is null", function);
    if (strnlen(name, sizeof Device::name) == sizeof Device::name)
      fail(GATUN_UNAVAILABLE, "%s: there is no device with a name of %zu or more characters",
           function, sizeof Device::name);
    gatun_device_options chosen = {};
    chosen.struct_size = sizeof chosen;
    if (options != nullptr) {
      aligned(function, "options", options);
      check_options(*options);
      chosen = *options;
    }
    read_injections();
    auto device = std::make_unique<Device>();
    std::snprintf(device->name, sizeof device->name, "%s", name);
    device->memory.budget = chosen.memory_budget_bytes;
    device->driver = open_driver(name, chosen, device->memory);
    device->backend = &device->driver->backend();
    try {
      device->handle = open_handle(devices(), device.get(), device.get());
    } catch (...) {
      device->driver->close();
      throw;
    }
    *handle = device.release()->handle;
  });
}

gatun_status gatun_device_close(gatun_device handle) {
  return guard([&] {
    Device* device = close_handle<Device>(devices(), handle);
    if (device == nullptr) devices().explain(handle, "device_close", "device");
    // From here on nothing new can be made on the device; calls that are under way pin a stream or
    // an event, and closing those waits for them.
    const auto mine = [&](const HandleTable::Slot& slot) { return on(device, slot); };
    device->driver->drain();
    streams().each(mine, [](uint64_t stream) {
      if (Stream* object = close_handle<Stream>(streams(), stream)) destroy(object);
    });
    events().each(mine, [](uint64_t event) {
      if (Event* object = close_handle<Event>(events(), event)) destroy(object);
    });
    buffers().each(mine, [](uint64_t buffer) {
      HandleTable::Words words;
      if (buffers().close(buffer, &words)) give_back(Buffer::unpack(words));
    });
    graphs().each(mine, [](uint64_t graph) {
      if (Graph* object = close_handle<Graph>(graphs(), graph)) destroy(object);
    });
    device->driver->close();
    delete device;
  });
}

gatun_status gatun_device_get_info(gatun_device handle, gatun_device_info* info) {
  return guard([&] {
    const char* function = "device_get_info";
    const Pin pin(devices(), handle);
    Device& device = device_of(pin, function, handle);
    aligned(function, "info", info);
    check_struct_size(function, "info", *info);
    std::memset(info, 0, sizeof *info);
    info->struct_size = sizeof *info;
    device.driver->describe(*info);
    info->memory_budget_bytes = device.memory.budget;
    info->memory_used_bytes = device.memory.used();
    info->memory_reserved_bytes =
        std::max(device.memory.reserved.load(std::memory_order_relaxed), info->memory_used_bytes);
    info->memory_peak_bytes = device.memory.peak();
    info->buffers = device.buffers.load(std::memory_order_relaxed);
    for (const OpType& op : kOpTypes)
      ++(op.offered(*device.backend) ? info->ops : info->ops_missing);
  });
}

gatun_status gatun_device_reset_peak(gatun_device handle) {
  return guard([&] {
    const Pin pin(devices(), handle);
    device_of(pin, "device_reset_peak", handle).memory.reset_peak();
  });
}

gatun_status gatun_device_wait(gatun_device handle) {
  return guard([&] {
    const Pin pin(devices(), handle);
    Failure failure;
    check(device_of(pin, "device_wait", handle).driver->wait(nullptr, failure), failure);
  });
}

gatun_status gatun_device_trim(gatun_device handle) {
  return guard([&] {
    const Pin pin(devices(), handle);
    Device& device = device_of(pin, "device_trim", handle);
    device.driver->drain();
    Failure failure;
    check(device.driver->trim(failure), failure);
  });
}

// ---- stream and event ----

gatun_status gatun_stream_create(gatun_device device_handle, gatun_stream* handle) {
  return guard([&] {
    const char* function = "stream_create";
    const Pin pin(devices(), device_handle);
    Device& device = device_of(pin, function, device_handle);
    aligned(function, "stream", handle);
    auto stream = std::make_unique<Stream>();
    stream->device = &device;
    Failure failure;
    check(device.driver->create_stream(&stream->native, failure), failure);
    try {
      *handle = open_handle(streams(), &device, stream.get());
    } catch (...) {
      device.driver->destroy_stream(stream->native);
      throw;
    }
    stream.release();
  });
}

gatun_status gatun_stream_destroy(gatun_stream handle) {
  return guard([&] {
    const Pin device = pin_device(streams(), handle, "stream_destroy", "stream");
    Stream* stream = close_handle<Stream>(streams(), handle);
    if (stream == nullptr) streams().explain(handle, "stream_destroy", "stream");
    destroy(stream);
  });
}

gatun_status gatun_stream_wait(gatun_stream handle) {
  return guard([&] {
    const Pin pin(streams(), handle);
    Stream& stream = running("stream_wait", stream_of(pin, "stream_wait", handle));
    Failure failure;
    check(stream.device->driver->wait(stream.native, failure), failure);
  });
}

gatun_status gatun_event_create(gatun_device device_handle, gatun_event* handle) {
  return guard([&] {
    const char* function = "event_create";
    const Pin pin(devices(), device_handle);
    Device& device = device_of(pin, function, device_handle);
    aligned(function, "event", handle);
    auto event = std::make_unique<Event>();
    event->device = &device;
    Failure failure;
    check(device.driver->create_event(&event->native, failure), failure);
    try {
      *handle = open_handle(events(), &device, event.get());
    } catch (...) {
      device.driver->destroy_event(event->native);
      throw;
    }
    event.release();
  });
}

gatun_status gatun_event_destroy(gatun_event handle) {
  return guard([&] {
    const Pin device = pin_device(events(), handle, "event_destroy", "event");
    Event* event = close_handle<Event>(events(), handle);
    if (event == nullptr) events().explain(handle, "event_destroy", "event");
    destroy(event);
  });
}

gatun_status gatun_event_record(gatun_event handle, gatun_stream stream_handle) {
  return guard([&] {
    const char* function = "event_record";
    const Pin event_pin(events(), handle), stream_pin(streams(), stream_handle);
    Event& event = event_of(event_pin, function, handle);
    Stream& stream = running(function, stream_of(stream_pin, function, stream_handle));
    check_same_device(function, "event", event.device, stream.device);
    Failure failure;
    check(event.device->driver->record(event.native, stream.native, failure), failure);
    event.recorded.store(true, std::memory_order_release);
  });
}

gatun_status gatun_stream_wait_event(gatun_stream stream_handle, gatun_event handle) {
  return guard([&] {
    const char* function = "stream_wait_event";
    const Pin event_pin(events(), handle), stream_pin(streams(), stream_handle);
    Stream& stream = running(function, stream_of(stream_pin, function, stream_handle));
    Event& event = event_of(event_pin, function, handle);
    check_same_device(function, "event", event.device, stream.device);
    if (!event.recorded.load(std::memory_order_acquire)) return;
    Failure failure;
    check(event.device->driver->stream_wait(stream.native, event.native, failure), failure);
  });
}

gatun_status gatun_event_wait(gatun_event handle) {
  return guard([&] {
    const Pin pin(events(), handle);
    Event& event = event_of(pin, "event_wait", handle);
    if (!event.recorded.load(std::memory_order_acquire)) return;
    Failure failure;
    check(event.device->driver->event_wait(event.native, failure), failure);
  });
}

gatun_status gatun_event_elapsed(gatun_event start_handle, gatun_event end_handle, double* millis) {
  return guard([&] {
    const char* function = "event_elapsed";
    const Pin start_pin(events(), start_handle), end_pin(events(), end_handle);
    Event& start = event_of(start_pin, function, start_handle, "start");
    Event& end = event_of(end_pin, function, end_handle, "end");
    aligned(function, "millis", millis);
    if (start.device != end.device)
      fail(GATUN_INVALID_HANDLE, "%s: start and end belong to different devices", function);
    for (const Event* event : {&start, &end})
      if (!event->recorded.load(std::memory_order_acquire))
        fail(GATUN_INVALID_ARGUMENT, "%s: %s was never recorded", function,
             event == &start ? "start" : "end");
    Failure failure;
    check(start.device->driver->elapsed(start.native, end.native, millis, failure), failure);
  });
}

// ---- buffer ----

gatun_status gatun_buffer_alloc(gatun_stream stream_handle, int64_t bytes, int32_t purpose,
                                gatun_buffer* handle) {
  return guard([&] {
    const char* function = "buffer_alloc";
    const Pin pin(streams(), stream_handle);
    Stream& stream = stream_of(pin, function, stream_handle);
    aligned(function, "buffer", handle);
    if (bytes < 0)
      fail(GATUN_INVALID_ARGUMENT, "%s: bytes is %lld, below 0", function,
           static_cast<long long>(bytes));
    if (purpose < 0 || purpose >= kPurposes)
      fail(GATUN_INVALID_ARGUMENT, "%s: purpose is %d, it is one of 0 to %d", function, purpose,
           kPurposes - 1);
    Device& device = *stream.device;
    Buffer buffer;
    buffer.device = &device;
    buffer.bytes = bytes;
    buffer.purpose = purpose;
    buffer.stream = stream_handle;
    Capture* capture = bytes > 0 ? stream.capture.load(std::memory_order_acquire) : nullptr;
    if (bytes > 0) {
      void* address = nullptr;
      Failure failure;
      gatun_status status = GATUN_OUT_OF_MEMORY;
      const auto use = static_cast<gatun_purpose>(purpose);
      if (!injected(Injection::kAlloc))
        status = capture != nullptr
                     ? capture->take(bytes, use, &address, failure)
                     : device.driver->allocate(stream.native, bytes, use, &address, failure);
      if (status == GATUN_OUT_OF_MEMORY) {
        char who[64];
        std::snprintf(who, sizeof who, "a buffer for %s", purpose_name(purpose));
        device.memory.describe_shortage(failure.message, sizeof failure.message, who, bytes);
        throw OutOfMemory(failure.message);
      }
      check(status, failure);
      buffer.address = static_cast<char*>(address);
      buffer.capture = capture;
    }
    device.buffers.fetch_add(1, std::memory_order_relaxed);
    try {
      *handle = buffers().open(buffer.pack());
    } catch (...) {
      give_back(buffer);
      throw;
    }
  });
}

gatun_status gatun_buffer_wrap(gatun_device device_handle, void* address, int64_t bytes,
                               gatun_buffer* handle) {
  return guard([&] {
    const char* function = "buffer_wrap";
    const Pin pin(devices(), device_handle);
    Device& device = device_of(pin, function, device_handle);
    aligned(function, "buffer", handle);
    if (bytes < 0)
      fail(GATUN_INVALID_ARGUMENT, "%s: bytes is %lld, below 0", function,
           static_cast<long long>(bytes));
    if (address == nullptr && bytes > 0)
      fail(GATUN_INVALID_ARGUMENT, "%s: address is null", function);
    if (reinterpret_cast<uintptr_t>(address) % 4 != 0)
      fail(GATUN_INVALID_ARGUMENT, "%s: address %p is not aligned to 4 bytes", function, address);
    if (static_cast<uint64_t>(bytes) > UINT64_MAX - reinterpret_cast<uintptr_t>(address))
      fail(GATUN_INVALID_ARGUMENT, "%s: %lld bytes from %p pass the end of the address space",
           function, static_cast<long long>(bytes), address);
    Failure failure;
    check(device.driver->wrap(address, bytes, failure), failure);
    Buffer buffer;
    buffer.device = &device;
    buffer.address = static_cast<char*>(address);
    buffer.bytes = bytes;
    buffer.wrapped = true;
    *handle = buffers().open(buffer.pack());
    device.buffers.fetch_add(1, std::memory_order_relaxed);
  });
}

gatun_status gatun_buffer_free(gatun_buffer handle) {
  return guard([&] {
    const Pin device = pin_device(buffers(), handle, "buffer_free", "buffer");
    HandleTable::Words words;
    if (!buffers().close(handle, &words)) buffers().explain(handle, "buffer_free", "buffer");
    give_back(Buffer::unpack(words));
  });
}

gatun_status gatun_buffer_get(gatun_buffer handle, void** address, int64_t* bytes) {
  return guard([&] {
    const char* function = "buffer_get";
    const Buffer buffer = buffer_of(function, handle);
    if (address != nullptr) *aligned(function, "address", address) = buffer.address;
    if (bytes != nullptr) *aligned(function, "bytes", bytes) = buffer.bytes;
  });
}

gatun_status gatun_buffer_write(gatun_stream stream_handle, gatun_buffer handle,
                                int64_t offset_bytes, const void* source, int64_t bytes) {
  return guard([&] {
    const char* function = "buffer_write";
    const Pin pin(streams(), stream_handle);
    Stream& stream = running(function, stream_of(pin, function, stream_handle));
    const Buffer buffer = buffer_of(function, handle);
    check_same_device(function, "buffer", buffer.device, stream.device);
    char* to = range_of(function, buffer, offset_bytes, bytes);
    if (bytes == 0) return;
    if (source == nullptr) fail(GATUN_INVALID_ARGUMENT, "%s: source is null", function);
    if (injected(Injection::kCopy))
      fail(GATUN_DEVICE_FAULT, "%s: a failure asked for by GATUN_FAULT", function);
    Failure failure;
    check(stream.device->driver->write(stream.native, to, source, bytes, failure), failure);
  });
}

gatun_status gatun_buffer_read(gatun_stream stream_handle, void* destination, gatun_buffer handle,
                               int64_t offset_bytes, int64_t bytes) {
  return guard([&] {
    const char* function = "buffer_read";
    const Pin pin(streams(), stream_handle);
    Stream& stream = running(function, stream_of(pin, function, stream_handle));
    const Buffer buffer = buffer_of(function, handle);
    check_same_device(function, "buffer", buffer.device, stream.device);
    const char* from = range_of(function, buffer, offset_bytes, bytes);
    Driver& driver = *stream.device->driver;
    Failure failure;
    if (bytes == 0) {
      check(driver.wait(stream.native, failure), failure);
      return;
    }
    if (destination == nullptr) fail(GATUN_INVALID_ARGUMENT, "%s: destination is null", function);
    if (injected(Injection::kCopy))
      fail(GATUN_DEVICE_FAULT, "%s: a failure asked for by GATUN_FAULT", function);
    check(driver.read(stream.native, destination, from, bytes, failure), failure);
  });
}

// ---- graph ----

gatun_status gatun_graph_begin(gatun_stream handle) {
  return guard([&] {
    const char* function = "graph_begin";
    const Pin pin(streams(), handle);
    Stream& stream = running(function, stream_of(pin, function, handle));
    auto capture = std::make_unique<Capture>(*stream.device);
    Capture* expected = nullptr;
    if (!stream.capture.compare_exchange_strong(expected, capture.get())) running(function, stream);
    Failure failure;
    const gatun_status status = stream.device->driver->begin_capture(stream.native, failure);
    if (status != GATUN_OK) {
      stream.capture.store(nullptr);
      check(status, failure);
    }
    capture.release();
  });
}

gatun_status gatun_graph_end(gatun_stream stream_handle, gatun_graph* handle) {
  return guard([&] {
    const char* function = "graph_end";
    const Pin pin(streams(), stream_handle);
    Stream& stream = stream_of(pin, function, stream_handle);
    aligned(function, "graph", handle);
    Capture* capture = stream.capture.exchange(nullptr);
    if (capture == nullptr)
      fail(GATUN_INVALID_ARGUMENT, "%s: the stream's ops are not being captured", function);
    Device& device = *stream.device;
    void* native = nullptr;
    try {
      std::lock_guard lock(capture->submission);
      Failure failure;
      check(device.driver->end_capture(stream.native, &native, failure), failure);
      auto graph = std::make_unique<Graph>(Graph{&device, native, capture});
      *handle = open_handle(graphs(), &device, graph.get());
      graph.release();
    } catch (...) {
      if (native != nullptr) device.driver->destroy_graph(native);
      capture->drop();
      throw;
    }
  });
}

gatun_status gatun_graph_launch(gatun_stream stream_handle, gatun_graph handle) {
  return guard([&] {
    const char* function = "graph_launch";
    const Pin stream_pin(streams(), stream_handle), graph_pin(graphs(), handle);
    Stream& stream = running(function, stream_of(stream_pin, function, stream_handle));
    Graph& graph = graph_of(graph_pin, function, handle);
    check_same_device(function, "graph", graph.device, stream.device);
    graph.capture->check_used(function);
    if (injected(Injection::kLaunch))
      fail(GATUN_DEVICE_FAULT, "%s: a failure asked for by GATUN_FAULT", function);
    Failure failure;
    check(graph.device->driver->launch(stream.native, graph.native, failure), failure);
  });
}

gatun_status gatun_graph_destroy(gatun_graph handle) {
  return guard([&] {
    const Pin device = pin_device(graphs(), handle, "graph_destroy", "graph");
    Graph* graph = close_handle<Graph>(graphs(), handle);
    if (graph == nullptr) graphs().explain(handle, "graph_destroy", "graph");
    destroy(graph);
  });
}

// ---- profile ----

gatun_status gatun_profile_enable(gatun_device handle, int32_t on) {
  return guard([&] {
    const Pin pin(devices(), handle);
    Device& device = device_of(pin, "profile_enable", handle);
    device.driver->drain();
    if (on != 0) {
      for (Device::Profile& entry : device.profile) {
        entry.calls = 0;
        entry.bytes = 0;
        entry.flops = 0;
      }
    }
    device.driver->profile(on != 0);
    device.profiling.store(on != 0, std::memory_order_release);
  });
}

gatun_status gatun_profile_read(gatun_device handle, gatun_profile_entry* entries, int32_t capacity,
                                int32_t* count) {
  return guard([&] {
    const char* function = "profile_read";
    const Pin pin(devices(), handle);
    Device& device = device_of(pin, function, handle);
    aligned(function, "count", count);
    if (capacity < 0)
      fail(GATUN_INVALID_ARGUMENT, "%s: capacity is %d, below 0", function, capacity);
    if (capacity > 0) aligned(function, "entries", entries);
    device.driver->drain();
    int64_t nanos[kOps] = {};
    device.driver->profile_nanos(nanos);
    int order[kOps];
    int used = 0;
    for (int i = 0; i < kOps; ++i)
      if (device.profile[i].calls.load() > 0) order[used++] = i;
    std::sort(order, order + used, [&](int a, int b) { return nanos[a] > nanos[b]; });
    for (int i = 0; i < std::min<int>(used, capacity); ++i) {
      const Device::Profile& profile = device.profile[order[i]];
      gatun_profile_entry& entry = entries[i];
      std::memset(&entry, 0, sizeof entry);
      std::snprintf(entry.op, sizeof entry.op, "%s", kOpTypes[order[i]].name);
      entry.calls = profile.calls.load();
      entry.nanos = nanos[order[i]];
      entry.bytes = profile.bytes.load();
      entry.flops = profile.flops.load();
    }
    *count = used;
  });
}

}  // extern "C"
