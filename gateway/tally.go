package gateway

// Tally is how many transactions of a protocol began in some time, and stand in a state now.
type Tally struct {
	Protocol Protocol
	State    State
	Count    int64
}
