#include "core/device.h"

namespace gatun {

gatun_status Capture::take(int64_t bytes, gatun_purpose purpose, void** address, Failure& failure) {
  std::lock_guard lock(mutex_);
  // the smallest that was left and is not twice what is wanted
  Block* found = nullptr;
  for (Block& block : blocks_)
    if (!block.in_use && block.bytes >= bytes && block.bytes / 2 <= bytes &&
        (found == nullptr || block.bytes < found->bytes))
      found = &block;
  if (found == nullptr) {
    blocks_.reserve(blocks_.size() + 1);
    void* made = nullptr;
    const gatun_status status = device_.driver->allocate(nullptr, bytes, purpose, &made, failure);
    if (status != GATUN_OK) return status;
    found = &blocks_.emplace_back(Block{made, bytes, purpose, false});
  }
  found->in_use = true;
  holders_.fetch_add(1, std::memory_order_relaxed);
  *address = found->address;
  return GATUN_OK;
}

void Capture::give(void* address) {
  {
    std::lock_guard lock(mutex_);
    for (Block& block : blocks_)
      if (block.address == address) block.in_use = false;
  }
  drop();
}

void Capture::use(gatun_buffer buffer) {
  std::lock_guard lock(mutex_);
  used_.insert(buffer);
}

void Capture::check_used(const char* function) const {
  std::lock_guard lock(mutex_);
  for (const gatun_buffer buffer : used_) {
    HandleTable::Words words;
    if (!buffers().read(buffer, &words))
      fail(GATUN_INVALID_HANDLE, "%s: buffer 0x%016llx, which ops of the graph use, was freed",
           function, static_cast<unsigned long long>(buffer));
  }
}

void Capture::drop() {
  if (holders_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (!blocks_.empty()) device_.driver->drain();
  for (const Block& block : blocks_)
    device_.driver->release(nullptr, block.address, block.bytes, block.purpose);
  delete this;
}

}  // namespace gatun
