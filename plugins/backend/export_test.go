package backend

// ServeClosing serves a backend that tells of its Close, for TestLifeline.
func ServeClosing() { Serve(&closing{}) }
