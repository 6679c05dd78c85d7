// For functions in files that are compiled for several instruction sets. Internal to the room.
//
// Such a function must be inlined wherever it is called: the linker keeps one of the copies that are not, and that may
// be the one with instructions that the processor lacks.
#pragma once

#define RL_INLINED inline __attribute__((always_inline))
