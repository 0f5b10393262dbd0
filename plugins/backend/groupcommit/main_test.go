package groupcommit

import (
	"testing"

	"go.uber.org/goleak"
)

// A writer that is closed leaves no goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
