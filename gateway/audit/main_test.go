package audit

import (
	"testing"

	"go.uber.org/goleak"
)

// Sinks leave no goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
