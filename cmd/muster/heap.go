package main

// heapFloor is how much the garbage collector takes to be in use at least, in bytes.
const heapFloor = 16 << 20

// newHeapFloor returns memory to be kept alive as long as the gateway runs. Nobody touches it, so the system never has to
// provide it. What a gateway has in use is some 4 MB, and Go collects when as much again was allocated: every 15
// enrollments, for 8 % of the CPU that they take with 16 clients. With the floor it waits for 20 MB. A percentage (GOGC) would do as much
// for these 4 MB, but take several times its size where a list of a million serial numbers is in use.
func newHeapFloor() []byte { return make([]byte, heapFloor) }
