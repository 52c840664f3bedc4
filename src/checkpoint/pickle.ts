// SPDX-License-Identifier: Apache-2.0
/**
 * Interpreter of the part of Python's pickle format that state dicts use. It builds plain values and calls nothing:
 * classes come from the caller's allow-list, and any other class or opcode ends the reading.
 */
import { UserError } from '../errors.ts';

/** A class or function a pickle names, by its allow-listed `module.name`. */
export class PickleGlobal {
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
}

/** Python's list and tuple are arrays, dict is a Map, None is null; `object` is what the caller's hooks return. */
export type PickleValue =
  | null
  | boolean
  | number
  | string
  | PickleGlobal
  | PickleValue[]
  | Map<PickleValue, PickleValue>
  | PickleObject;

/** Base of the values that the caller's hooks make. */
export abstract class PickleObject {}

export interface PickleHooks {
  /** The file's name, for messages. */
  where: string;
  allowedGlobals: ReadonlySet<string>;
  /** The value of `global(*args)`. */
  reduce(global: PickleGlobal, args: PickleValue[]): PickleValue;
  /** The value of a persistent id. */
  persistentLoad(id: PickleValue): PickleValue;
}

const MARK = Symbol('mark');

/**
 * Runs a pickle (protocols 2 to 5) and returns the value it builds.
 * @throws UserError naming the byte and the class or opcode that is not allowed, or that the pickle is damaged
 */
export function readPickle(bytes: Uint8Array, hooks: PickleHooks): PickleValue {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = new TextDecoder('utf-8', { fatal: true });
  const stack: (PickleValue | typeof MARK)[] = [];
  const memo = new Map<number, PickleValue>();
  let at = 0;
  let opcodeAt = 0;

  const damaged = (why: string) =>
    new UserError(`${hooks.where}: the pickle is damaged at byte ${opcodeAt}: ${why}. Fetch the file again.`);
  const take = (length: number): number => {
    const start = at;
    if (length > bytes.length - at) throw damaged('it ends too early');
    at += length;
    return start;
  };
  const u8 = () => view.getUint8(take(1));
  const u32 = () => view.getUint32(take(4), true);
  const string = (length: number): string => {
    const start = take(length);
    try {
      return text.decode(bytes.subarray(start, at));
    } catch {
      throw damaged('a string is not UTF-8');
    }
  };
  const line = (): string => {
    const end = bytes.indexOf(10, at);
    if (end < 0) throw damaged('a name has no end');
    const value = string(end - at);
    at = end + 1;
    return value;
  };
  const longInteger = (length: number): number => {
    const start = take(length);
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[start + i] ?? 0);
    const signed = Number(BigInt.asIntN(length * 8, value));
    if (!Number.isSafeInteger(signed)) throw damaged('an integer is out of range');
    return signed;
  };
  const pop = (): PickleValue => {
    const value = stack.pop();
    if (value === undefined || value === MARK) throw damaged('an operand is missing');
    return value;
  };
  const popArray = (what: string): PickleValue[] => {
    const value = pop();
    if (!Array.isArray(value)) throw damaged(`expected ${what}`);
    return value;
  };
  const popToMark = (): PickleValue[] => {
    const mark = stack.lastIndexOf(MARK);
    if (mark < 0) throw damaged('a mark is missing');
    return (stack.splice(mark) as (PickleValue | typeof MARK)[]).slice(1) as PickleValue[];
  };
  const popTuple = (length: number): PickleValue[] => Array.from({ length }, pop).reverse();
  const peek = (): PickleValue => {
    const value = pop();
    stack.push(value);
    return value;
  };
  const recall = (index: number): PickleValue => {
    const value = memo.get(index);
    if (value === undefined) throw damaged(`memo ${index} is not set`);
    return value;
  };
  const setItems = (items: PickleValue[]): void => {
    const target = peek();
    if (!(target instanceof Map) || items.length % 2 !== 0) throw damaged('items are set on what is no dict');
    for (let i = 0; i < items.length; i += 2) target.set(items[i] as PickleValue, items[i + 1] as PickleValue);
  };
  const append = (items: PickleValue[]): void => {
    const target = peek();
    if (!Array.isArray(target)) throw damaged('items are appended to what is no list');
    for (const item of items) target.push(item);
  };
  const global = (module: string, name: string): PickleGlobal => {
    const fullName = `${module}.${name}`;
    if (!hooks.allowedGlobals.has(fullName)) {
      throw new UserError(
        `${hooks.where}: at byte ${opcodeAt} the pickle asks for ${fullName}, which no list of tensors needs. Nothing was run. Do not trust this file; use a safetensors copy of the model.`,
      );
    }
    return new PickleGlobal(fullName);
  };
  const reduce = (): PickleValue => {
    const args = popArray('the arguments of a call');
    const callee = pop();
    if (!(callee instanceof PickleGlobal)) throw damaged('it calls what is no class');
    return hooks.reduce(callee, args);
  };
  const build = (): void => {
    pop();
    // An OrderedDict's own attributes (torch keeps version notes there). Nothing else has any.
    if (!(peek() instanceof Map)) throw damaged('it sets the state of what is no dict');
  };

  while (at < bytes.length) {
    opcodeAt = at;
    const opcode = u8();
    switch (opcode) {
      case 0x80: {
        // PROTO
        const protocol = u8();
        if (protocol < 2 || protocol > 5) throw damaged(`protocol ${protocol} is not between 2 and 5`);
        break;
      }
      case 0x95: // FRAME
        take(8);
        break;
      case 0x28: // MARK
        stack.push(MARK);
        break;
      case 0x4e: // NONE
        stack.push(null);
        break;
      case 0x88: // NEWTRUE
        stack.push(true);
        break;
      case 0x89: // NEWFALSE
        stack.push(false);
        break;
      case 0x4b: // BININT1
        stack.push(u8());
        break;
      case 0x4d: // BININT2
        stack.push(view.getUint16(take(2), true));
        break;
      case 0x4a: // BININT
        stack.push(view.getInt32(take(4), true));
        break;
      case 0x8a: // LONG1
        stack.push(longInteger(u8()));
        break;
      case 0x47: // BINFLOAT
        stack.push(view.getFloat64(take(8), false));
        break;
      case 0x8c: // SHORT_BINUNICODE
        stack.push(string(u8()));
        break;
      case 0x58: // BINUNICODE
        stack.push(string(u32()));
        break;
      case 0x7d: // EMPTY_DICT
        stack.push(new Map());
        break;
      case 0x5d: // EMPTY_LIST
      case 0x29: // EMPTY_TUPLE
        stack.push([]);
        break;
      case 0x74: // TUPLE
        stack.push(popToMark());
        break;
      case 0x85: // TUPLE1, TUPLE2, TUPLE3
      case 0x86:
      case 0x87:
        stack.push(popTuple(opcode - 0x84));
        break;
      case 0x71: // BINPUT
        memo.set(u8(), peek());
        break;
      case 0x72: // LONG_BINPUT
        memo.set(u32(), peek());
        break;
      case 0x94: // MEMOIZE
        memo.set(memo.size, peek());
        break;
      case 0x68: // BINGET
        stack.push(recall(u8()));
        break;
      case 0x6a: // LONG_BINGET
        stack.push(recall(u32()));
        break;
      case 0x73: // SETITEM
        setItems(popTuple(2));
        break;
      case 0x75: // SETITEMS
        setItems(popToMark());
        break;
      case 0x61: // APPEND
        append(popTuple(1));
        break;
      case 0x65: // APPENDS
        append(popToMark());
        break;
      case 0x63: // GLOBAL
        stack.push(global(line(), line()));
        break;
      case 0x93: {
        // STACK_GLOBAL
        const [module, name] = popTuple(2);
        stack.push(global(String(module), String(name)));
        break;
      }
      case 0x51: // BINPERSID
        stack.push(hooks.persistentLoad(pop()));
        break;
      case 0x52: // REDUCE
        stack.push(reduce());
        break;
      case 0x62: // BUILD
        build();
        break;
      case 0x2e: // STOP
        return pop();
      default:
        throw new UserError(
          `${hooks.where}: opcode 0x${opcode.toString(16).padStart(2, '0')} at byte ${opcodeAt} of the pickle is not one that a list of tensors needs. Nothing was run. Use a safetensors copy of the model.`,
        );
    }
  }
  throw damaged('it has no end');
}
