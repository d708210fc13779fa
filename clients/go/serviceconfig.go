package keys

import (
	_ "embed"
	"encoding/json"
)

// A copy of docs/service-config.json: the deadlines and the retries that the service recommends.
//
//go:generate cp ../../docs/service-config.json service-config.json
//go:embed service-config.json
var serviceConfig string

// withoutTimeouts returns the service config without its deadlines, for a caller that has one of its own. FollowEvents
// keeps its deadline, since it waits for what may come.
func withoutTimeouts() string {
	var config map[string]any
	if err := json.Unmarshal([]byte(serviceConfig), &config); err != nil {
		panic(err) // the file is part of the package, and a test reads it
	}
	for _, each := range config["methodConfig"].([]any) {
		methods := each.(map[string]any)
		if names := methods["name"].([]any); names[0].(map[string]any)["method"] != "FollowEvents" {
			delete(methods, "timeout")
		}
	}
	text, err := json.Marshal(config)
	if err != nil {
		panic(err)
	}
	return string(text)
}
