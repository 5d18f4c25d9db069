#include "chat/chat.h"

int main(int argc, char **argv) {
    const ht_program program = {.name = "halter-chat",
                                .summary = "Talk to a Llama model; answer one prompt or a file of prompts.",
                                .commands = &ht_chat_command,
                                .command_count = 1};
    return ht_program_main(&program, argc, argv);
}
