package gateway

// States are all that there are, in the order in which lists offer them.
var States = [...]State{
	StateRefused, StateHeld, StateApproved, StateIssuing, StateQueued, StateUnknown, StateWaiting, StateStuck, StateUnconfirmed, StateForwarded,
	StateIssued, StateRejected, StateFailed, StateRevoked, StateDenied,
}

// Tally is how many transactions of a protocol began in some time, and stand in a state now.
type Tally struct {
	Protocol Protocol
	State    State
	Count    int64
}
