package gateway

import (
	"context"
	"time"
)

// Message is what a transaction's requester has sent since it began: polls, repetitions, confirmations. Equal ones are counted
// together, so that a device that polls for days costs one row.
type Message struct {
	Transaction string
	Kind        string // "poll", "repeat", "confirm", "reject"
	Note        string // what was answered, in a few words of ours
	Source      string // the last one's address
	Count       int64
	First, Last time.Time
}

// Messages is the part of the Store that keeps them. They are for `muster explain` only, and nothing depends on them: the
// gateway gathers them and commits them every second, many at once, without anybody waiting.
type Messages interface {
	// Heard adds to the rows with the same transaction, kind and note. Transactions that it does not know are left out.
	Heard(ctx context.Context, messages []Message) error
	// Messages returns those of a transaction, by First.
	Messages(ctx context.Context, transaction string) ([]Message, error)
}
