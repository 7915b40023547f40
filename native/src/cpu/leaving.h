// The end of the process. exit() destroys the static objects of every library while threads still
// run; oneDNN's code generators are such objects, and an op that uses one at that moment crashes
// the process it was leaving. So the first thing exit() does is to stop the queues between two ops.
//
// Exit handlers run in the reverse of the order in which they, and static objects, came to be. So a
// handler that was registered before a static object was made runs too late for it: whoever makes
// oneDNN set up its objects calls guard_statics() after that.
#pragma once

#include "cpu/queue.h"

namespace gatun::cpu {

// Has the queue frozen when the process ends, until forget().
void watch(Queue& queue);
void forget(Queue& queue);

// What has been made so far is destroyed after the queues are frozen.
void guard_statics();

}  // namespace gatun::cpu
