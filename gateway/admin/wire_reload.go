package admin

import "time"

// Configuration is what the gateway goes by.
type Configuration struct {
	File       string         `json:"file"`                  // as `muster serve` was told
	SHA256     string         `json:"sha256"`                // of the file as it was read, hexadecimal
	Since      time.Time      `json:"since"`                 // when it was put into force
	Watched    bool           `json:"watched"`               // it is read again when it, or a file that it names, changes
	LastReload *ReloadOutcome `json:"last_reload,omitempty"` // absent: none since the start
}

// ReloadOutcome is what came of an order to read the configuration again.
type ReloadOutcome struct {
	At     time.Time `json:"at"`
	By     string    `json:"by"`               // "signal", "watch", or the operator
	Good   bool      `json:"good"`             // false: nothing has changed
	SHA256 string    `json:"sha256,omitempty"` // of the file that was read
	Error  string    `json:"error,omitempty"`  // why not
}

// Reload is what a configuration that was put into force has changed. Names are those of the configuration.
type Reload struct {
	Configuration Configuration  `json:"configuration"`
	Endpoints     Changes        `json:"endpoints"`
	Listeners     Changes        `json:"listeners"`
	Profiles      Changes        `json:"profiles"`
	Backends      BackendChanges `json:"backends"`
	Settings      []string       `json:"settings,omitempty"` // other keys at the top that changed
	Files         []string       `json:"files,omitempty"`    // that it names, and that changed
}

// Changes are the entries of a part of the configuration that are others than before.
type Changes struct {
	Added   []string `json:"added,omitempty"`
	Removed []string `json:"removed,omitempty"`
	Changed []string `json:"changed,omitempty"`
}

// BackendChanges are what became of the processes of CA plugins.
type BackendChanges struct {
	Kept    []string `json:"kept,omitempty"`    // go on as they are
	Started []string `json:"started,omitempty"` // new, or in the place of one with another configuration
	Stopped []string `json:"stopped,omitempty"` // end once no request needs them
}
